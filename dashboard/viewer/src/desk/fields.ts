// Fields to fill, "[ ]" or "[size in mm]", and macros typed as ".word".
const FIELD = /\[[^\]\n]{0,60}\]/g;
const TYPED = /(?:^|\s)\.([a-z0-9][a-z0-9_-]{0,31})$/i;

function areas(): HTMLTextAreaElement[] {
  return [...document.querySelectorAll<HTMLTextAreaElement>("form#sections .paper textarea")];
}

function selectField(area: HTMLTextAreaElement, from: number): boolean {
  const field = [...area.value.matchAll(FIELD)].find((one) => one.index >= from);
  if (!field) return false;
  area.focus();
  area.setSelectionRange(field.index, field.index + field[0].length);
  return true;
}

// the next field: in this section, and with `everywhere` in those after it and from the start again
export function nextField(everywhere: boolean): boolean {
  const all = areas();
  const active = all.find((one) => one === document.activeElement);
  if (active && selectField(active, active.selectionEnd)) return true;
  if (!everywhere) return false;
  const at = active ? all.indexOf(active) : -1;
  return [...all.slice(at + 1), ...all.slice(0, at + 1)].some((one) => selectField(one, 0));
}

// Written so that Ctrl+Z takes it back, and as typed text, so that every listener hears of it.
export function insert(area: HTMLTextAreaElement, from: number, to: number, text: string): void {
  area.focus();
  area.setSelectionRange(from, to);
  if (!document.execCommand("insertText", false, text)) {
    area.setRangeText(text, from, to, "end");
    area.dispatchEvent(new InputEvent("input", { bubbles: true }));
  }
}

function macroText(word: string): string | undefined {
  const found = document.querySelector<HTMLElement>(`[data-macro="${CSS.escape(word.toLowerCase())}"]`);
  return found?.dataset["text"];
}

function put(area: HTMLTextAreaElement, from: number, to: number, text: string): void {
  insert(area, from, to, text);
  if (new RegExp(FIELD.source).test(text)) selectField(area, from);
}

export function expand(area: HTMLTextAreaElement): boolean {
  const at = area.selectionStart;
  if (at !== area.selectionEnd) return false;
  const typed = TYPED.exec(area.value.slice(0, at));
  const text = typed ? macroText(typed[1]!) : undefined;
  if (!typed || text === undefined) return false;
  put(area, at - typed[1]!.length - 1, at, text);
  return true;
}

let lastArea: HTMLTextAreaElement | null = null;

// where somebody wrote last, else the findings
export function writingPlace(): HTMLTextAreaElement | null {
  if (lastArea?.isConnected) return lastArea;
  return document.querySelector<HTMLTextAreaElement>("form#sections #section-findings");
}

export function startFields(form: HTMLFormElement): void {
  form.addEventListener("focusin", (event) => {
    if (event.target instanceof HTMLTextAreaElement) lastArea = event.target;
  });
  form.addEventListener("keydown", (event) => {
    if (!(event.target instanceof HTMLTextAreaElement) || event.ctrlKey || event.altKey || event.metaKey) return;
    if ((event.key === " " || event.key === "Tab") && !event.shiftKey && expand(event.target)) event.preventDefault();
    // a text without a field to fill keeps no focus: Tab leaves it as everywhere
    else if (event.key === "Tab" && !event.shiftKey && nextField(false)) event.preventDefault();
  });
  form.addEventListener("click", (event) => {
    const macro = (event.target as Element).closest<HTMLElement>("[data-macro]");
    const area = writingPlace();
    if (!macro || !area) return;
    macro.closest("details")?.removeAttribute("open");
    put(area, area.selectionStart, area.selectionEnd, macro.dataset["text"] ?? "");
  });
}
