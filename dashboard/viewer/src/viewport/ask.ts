// One short question, in a dialog.
export function askText(root: HTMLElement, question: string): Promise<string> {
  const dialog = document.createElement("dialog");
  dialog.className = "cs-ask";
  const form = document.createElement("form");
  form.method = "dialog";
  const label = document.createElement("label");
  const input = document.createElement("input");
  [input.type, input.maxLength, input.autocomplete] = ["text", 200, "off"];
  label.append(question, input);
  const keep = document.createElement("button");
  [keep.className, keep.textContent] = ["primary", "Keep"];
  form.append(label, keep);
  dialog.append(form);
  root.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(input.value.trim());
      dialog.remove();
    });
  });
}
