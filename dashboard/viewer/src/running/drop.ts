// A DICOM file dropped on the rules tester is the file that is chosen; the form sends it as without script.
export function startDrop(loaded: Element): void {
  const place = loaded.matches("#drop") ? loaded : loaded.querySelector("#drop");
  if (!(place instanceof HTMLElement) || place.dataset["live"]) return;
  place.dataset["live"] = "yes";
  const input = place.querySelector<HTMLInputElement>("input[type=file]")!;
  const form = input.form!;
  for (const name of ["dragenter", "dragover"]) {
    place.addEventListener(name, (event) => {
      event.preventDefault();
      place.classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop"]) place.addEventListener(name, () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    const files = event.dataTransfer?.files;
    if (!files?.length) return;
    input.files = files;
    form.requestSubmit();
  });
  input.addEventListener("change", () => {
    if (input.files?.length) form.requestSubmit();
  });
}
