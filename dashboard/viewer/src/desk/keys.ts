// Keyboard map; the same list is printed by the ? dialog (templates/_keys.html).
import { currentViewer } from "../slices/viewer";

// a ticked box or a moved slider keeps the focus, but nobody types into it
function typing(target: EventTarget | null): boolean {
  if (target instanceof HTMLInputElement) return !["checkbox", "radio", "range"].includes(target.type);
  return target instanceof HTMLElement && (target.isContentEditable || /^(TEXTAREA|SELECT)$/.test(target.tagName));
}

function findings(): HTMLElement[] {
  return [...document.querySelectorAll<HTMLElement>(".finding")];
}

function select(by: number): void {
  const all = findings();
  if (!all.length) return;
  const at = all.findIndex((one) => one.classList.contains("current"));
  const next = all[Math.max(0, Math.min(all.length - 1, at + by))] ?? all[0]!;
  all.forEach((one) => one.classList.toggle("current", one === next));
  next.scrollIntoView({ block: "nearest" });
  next.querySelector<HTMLAnchorElement>("a[data-jump]")?.click();
  next.classList.add("current");
}

function press(selector: string): void {
  const chosen = document.querySelector<HTMLElement>(`.finding.current ${selector}`);
  if (chosen instanceof HTMLDetailsElement) {
    chosen.open = true;
    chosen.querySelector("input[type=text]")?.closest<HTMLInputElement>("input")?.focus();
  } else chosen?.click();
}

function follow(selector: string): void {
  document.querySelector<HTMLElement>(selector)?.click();
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
  a: () => press("[data-key=accept]"),
  x: () => press("details.reject"),
  e: () => press("details.edit"),
  r: () => follow("[data-key=reject-draft]"),
  Escape: () => follow("[data-key=back]"),
};

export function startKeys(): void {
  const dialog = document.querySelector<HTMLDialogElement>("dialog#keys");
  document.querySelector("[data-key=help]")?.addEventListener("click", () => dialog?.showModal());
  dialog?.addEventListener("click", (event) => event.target === dialog && dialog.close());

  document.addEventListener("keydown", (event) => {
    if (dialog?.open) return;
    if ((event.ctrlKey || event.metaKey) && event.key === "s") {
      const form = document.querySelector<HTMLFormElement>("form#sections");
      if (form) {
        event.preventDefault();
        form.requestSubmit();
      }
    } else if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
      follow("[data-key=sign]");
    } else if (!typing(event.target) && !event.ctrlKey && !event.metaKey && !event.altKey) {
      if (event.key === "?") dialog?.showModal();
      else if (/^[1-9]$/.test(event.key) && currentViewer()) currentViewer()!.preset(Number(event.key) - 1);
      else if (document.querySelector("#viewer") && KEYS[event.key]) {
        event.preventDefault();
        KEYS[event.key]!();
      }
    }
  });
}
