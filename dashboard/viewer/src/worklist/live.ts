// The worklist under the hands: keys, ticked rows, and pieces of rows that change without anything moving.
const TICKED = "worklist.ticked";

function rows(): HTMLTableRowElement[] {
  return [...document.querySelectorAll<HTMLTableRowElement>("table.worklist tbody tr")];
}

function boxes(): HTMLInputElement[] {
  return [...document.querySelectorAll<HTMLInputElement>("table.worklist input[name=study]")];
}

function typing(target: EventTarget | null): boolean {
  if (target instanceof HTMLInputElement) return target.type !== "checkbox";
  return target instanceof HTMLElement && /^(TEXTAREA|SELECT)$/.test(target.tagName);
}

// The chosen row is kept in the address (#s-…), so that who comes back from a study is where they were.
function choose(by: number): void {
  const all = rows();
  const at = all.findIndex((row) => row.classList.contains("selected"));
  const next = at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.max(0, Math.min(all.length - 1, at + by));
  mark(all[next]);
}

function mark(chosen: HTMLTableRowElement | undefined): void {
  if (!chosen) return;
  for (const row of rows()) {
    row.classList.toggle("selected", row === chosen);
    if (row === chosen) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
  chosen.scrollIntoView({ block: "nearest" });
  history.replaceState(history.state, "", `#${chosen.id}`);
}

const KEYS: Record<string, (row: HTMLTableRowElement | null) => void> = {
  j: () => choose(1),
  k: () => choose(-1),
  m: (row) => row?.querySelector<HTMLFormElement>("form[data-take]")?.requestSubmit(),
  x: (row) => row?.querySelector<HTMLInputElement>("input[name=study]")?.click(),
  "/": () => document.querySelector<HTMLInputElement>("#search")?.select(),
};

function press(event: KeyboardEvent): void {
  if (typing(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open], [popover]:popover-open")) return;
  const row = document.querySelector<HTMLTableRowElement>("table.worklist tr.selected");
  if (event.key === "Enter") {
    const inside = event.target instanceof HTMLElement && event.target.closest("a, button, summary");
    if (row?.dataset["open"] && !inside) location.assign(row.dataset["open"]);
  } else if (KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]!(row);
  }
}

function countTicked(): void {
  const ticked = boxes().filter((box) => box.checked);
  const form = document.querySelector<HTMLFormElement>("#chosen");
  const words = form?.querySelector("[data-chosen]");
  if (words) words.textContent = String(ticked.length);
  for (const button of form?.querySelectorAll("button") ?? []) button.disabled = !ticked.length;
  const all = document.querySelector<HTMLInputElement>("[data-all]");
  if (all) {
    all.checked = ticked.length > 0 && ticked.length === boxes().length;
    all.indeterminate = ticked.length > 0 && !all.checked;
  }
  sessionStorage.setItem(TICKED, ticked.map((box) => box.value).join(","));
}

// What was ticked stays so when the new list is shown; after it was assigned nothing is ticked any more.
function startTicks(): void {
  const before = new Set((sessionStorage.getItem(TICKED) ?? "").split(","));
  for (const box of boxes()) box.checked = before.has(box.value);
  countTicked();
  document.querySelector("#chosen")?.addEventListener("submit", () => sessionStorage.removeItem(TICKED));
  document.addEventListener("change", (event) => {
    if (!(event.target instanceof HTMLInputElement)) return;
    if (event.target.matches("[data-all]")) for (const box of boxes()) box.checked = event.target.checked;
    if (event.target.matches("[data-all], input[name=study]")) countTicked();
  });
}

// A piece somebody is about to use is not pulled away from under the pointer or the keyboard.
function spare(event: Event): void {
  const target = (event as CustomEvent<{ target: Element; shouldSwap: boolean }>).detail.target;
  if (!target.matches(".live")) return;
  const held = target.querySelector("[popover]:popover-open") ?? (target.matches(":hover") && target.querySelector("button"));
  const taken = target.querySelector("form.htmx-request, form[data-asked]");
  if (held && !taken) (event as CustomEvent<{ shouldSwap: boolean }>).detail.shouldSwap = false;
}

// The focus goes back to the same kind of button when its piece was replaced by the answer to it.
function keepFocus(): void {
  let place = "";
  document.addEventListener("htmx:oobBeforeSwap", (event) => {
    const target = (event as CustomEvent<{ target: Element }>).detail.target;
    place = target.contains(document.activeElement) ? target.id : "";
    const button = document.activeElement?.closest("form[data-take]") ? "form[data-take] button" : "button, a";
    if (place) queueMicrotask(() => document.getElementById(place)?.querySelector<HTMLElement>(button)?.focus());
  });
}

export function startWorklist(): void {
  if (!document.querySelector("table.worklist")) return;
  const chosen = location.hash.startsWith("#s-") ? document.getElementById(location.hash.slice(1)) : null;
  if (chosen instanceof HTMLTableRowElement) mark(chosen);
  startTicks();
  document.addEventListener("keydown", press);
  document.addEventListener("submit", (event) => (event.target as Element).matches("form[data-take]") && (event.target as HTMLElement).setAttribute("data-asked", ""), true);
  document.addEventListener("htmx:oobBeforeSwap", spare);
  keepFocus();
}

const left = (seconds: number): string =>
  seconds < 120 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;

// Counts the timers of studies that are being received down; the server's word comes with every pulse.
export function startTimers(): void {
  setInterval(() => {
    for (const one of document.querySelectorAll<HTMLElement>("[data-timer] [data-seconds]")) {
      const seconds = Math.max(0, Number(one.dataset["seconds"]) - 1);
      one.dataset["seconds"] = String(seconds);
      one.textContent = left(seconds);
    }
  }, 1000);
}
