// Unsaved text: say so, save it after a pause, and never lose it to a click.
const AUTOSAVE_MS = 8000;

export function startEditor(): void {
  const form = document.querySelector<HTMLFormElement>("form#sections");
  const state = document.querySelector<HTMLElement>("#save-state");
  if (!form || !state) return;
  let dirty = false;
  let timer = 0;

  const grow = (area: HTMLTextAreaElement): void => {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + 2}px`;
  };
  form.querySelectorAll("textarea").forEach(grow);

  form.addEventListener("input", (event) => {
    dirty = true;
    state.textContent = "Unsaved changes";
    state.className = "unsaved";
    if (event.target instanceof HTMLTextAreaElement) {
      grow(event.target);
      event.target.closest(".section")?.classList.toggle("ai", event.target.value === event.target.dataset["ai"]);
    }
    window.clearTimeout(timer);
    timer = window.setTimeout(() => form.requestSubmit(), AUTOSAVE_MS);
  });
  form.addEventListener("htmx:beforeRequest", () => {
    window.clearTimeout(timer);
    dirty = false;
    state.textContent = "Saving…";
    state.className = "";
  });
  for (const failure of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) {
    form.addEventListener(failure, () => {
      dirty = true;
      state.textContent = "Not saved. Your text is still here; try again.";
      state.className = "unsaved";
    });
  }
  window.addEventListener("beforeunload", (event) => {
    if (dirty) event.preventDefault();
  });
  // leaving for the sign page with unsaved text saves first
  for (const link of document.querySelectorAll<HTMLAnchorElement>("a[data-needs-save]")) {
    link.addEventListener("click", (event) => {
      if (!dirty) return;
      event.preventDefault();
      form.addEventListener("htmx:afterRequest", () => location.assign(link.href), { once: true });
      form.requestSubmit();
    });
  }
  // each answer carries the report's new version; every form must send it back
  document.body.addEventListener("reportVersion", (event) => {
    const version = String((event as CustomEvent<{ value: number }>).detail.value);
    for (const input of document.querySelectorAll<HTMLInputElement>("input[name=version]")) input.value = version;
  });
}
