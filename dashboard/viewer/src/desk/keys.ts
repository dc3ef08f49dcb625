// Keyboard map; the same list is printed by the ? dialog (templates/_keys.html).
import { currentViewer } from "../slices/viewer";
import { nextField } from "./fields";
import { currentFinding, select } from "./findings";
import { saveNow, stay, toFindings } from "./start";
import { selectAt, selectTab } from "./tabs";

// a ticked box or a moved slider keeps the focus, but nobody types into it
function typing(target: EventTarget | null): boolean {
  if (target instanceof HTMLInputElement) return !["checkbox", "radio", "range"].includes(target.type);
  return target instanceof HTMLElement && (target.isContentEditable || /^(TEXTAREA|SELECT)$/.test(target.tagName));
}

// decide the current finding; the first one when none is
function decide(selector: string): void {
  if (!currentFinding()) select(1);
  const chosen = currentFinding()?.querySelector<HTMLElement>(selector);
  if (chosen instanceof HTMLDetailsElement) {
    toFindings();
    chosen.open = true;
    chosen.querySelector<HTMLInputElement>("input[type=text]")?.focus();
  } else chosen?.click();
}

function follow(selector: string): void {
  document.querySelector<HTMLElement>(selector)?.click();
}

// into the text; where there is no draft to open, a report without AI begins
function write(): void {
  const begin = document.querySelector<HTMLElement>("[data-key=without-ai]");
  if (begin) return begin.click();
  selectTab("report");
  document.querySelector<HTMLTextAreaElement>("#section-findings")?.focus();
}

function compare(): void {
  selectTab("history");
  follow("#history [data-key=diff]");
}

const KEYS: Record<string, () => void> = {
  ArrowDown: () => currentViewer()?.step(1),
  ArrowUp: () => currentViewer()?.step(-1),
  PageDown: () => currentViewer()?.step(10),
  PageUp: () => currentViewer()?.step(-10),
  Home: () => currentViewer()?.goTo(0),
  End: () => currentViewer()?.goTo(Number.MAX_SAFE_INTEGER),
  s: () => currentViewer()?.toggleOverlays(),
  "0": () => currentViewer()?.resetView(),
  n: () => select(1),
  b: () => select(-1),
  a: () => decide("[data-key=accept]"),
  x: () => decide("details.reject"),
  e: () => decide("details.edit"),
  w: () => write(),
  d: () => compare(),
  r: () => follow("[data-key=reject-draft]"),
  Escape: () => follow("[data-key=back]"),
};

function control(event: KeyboardEvent): boolean {
  if (event.key === "s") return document.querySelector("form#sections") !== null && saveNow();
  if (event.key === "Enter" && document.querySelector("#desk")) follow("[data-key=sign]");
  return false;
}

function alt(event: KeyboardEvent): boolean {
  const digit = /^Digit([1-5])$/.exec(event.code);
  if (!digit || !document.querySelector("#desk-tabs")) return false;
  selectAt(Number(digit[1]) - 1);
  return true;
}

// out of a field, not out of the page
function leaveField(target: HTMLElement): boolean {
  target.closest("details")?.removeAttribute("open");
  target.blur();
  stay();
  return true;
}

function plain(event: KeyboardEvent, dialog: HTMLDialogElement | null): boolean {
  if (event.key === "?") {
    dialog?.showModal();
    return true;
  }
  const onPage = document.querySelector("#viewer") !== null;
  if (/^[1-9]$/.test(event.key) && onPage && currentViewer()) currentViewer()!.preset(Number(event.key) - 1);
  else if (event.key === "p" && document.querySelector("#desk") && !liveStage()) selectTab("priors");
  else if (onPage && KEYS[event.key]) KEYS[event.key]!();
  else return false;
  return true;
}

// the stage beside has a p of its own: the prior's images
function liveStage(): boolean {
  return document.querySelector("#viewer[data-stage=live]") !== null;
}

function press(event: KeyboardEvent, dialog: HTMLDialogElement | null): boolean {
  if (event.ctrlKey || event.metaKey) return control(event);
  if (event.altKey) return alt(event);
  if (event.key === "F2" && document.querySelector("form#sections")) {
    selectTab("report");
    return nextField(true);
  }
  if (!typing(event.target)) return plain(event, dialog);
  return event.key === "Escape" && document.querySelector("#desk") !== null && leaveField(event.target as HTMLElement);
}

export function startKeys(): void {
  const dialog = document.querySelector<HTMLDialogElement>("dialog#keys");
  document.querySelector("[data-key=help]")?.addEventListener("click", () => dialog?.showModal());
  dialog?.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
    if (press(event, dialog)) event.preventDefault();
  });
}
