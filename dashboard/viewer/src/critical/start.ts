// Critical results: clocks that run, notes that close, and what the server would not accept said beside its form.

export function span(seconds: number): string {
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
  if (seconds < 2 * 86400) return `${Math.floor(seconds / 3600)} h ${String(Math.floor((seconds % 3600) / 60)).padStart(2, "0")} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

const words = (left: number, act: string): string => (left < 0 ? `overdue by ${span(-left)}` : `${span(left)} ${act}`);

// Every clock says when it will be over by this page's own clock, so that a sleeping tab catches up.
function startClock(clock: HTMLElement): void {
  clock.dataset["over"] = String(performance.now() / 1000 + Number(clock.dataset["left"]));
}

function tick(): void {
  for (const clock of document.querySelectorAll<HTMLElement>(".critical-clock[data-over]")) {
    const left = Math.round(Number(clock.dataset["over"]) - performance.now() / 1000);
    clock.textContent = words(left, clock.dataset["act"] ?? "");
    clock.classList.toggle("bad", left < 0);
  }
}

// The script of the forms swaps nothing on an error, so the reason is read from the page that came.
function sayWhy(event: Event): void {
  const place = document.querySelector<HTMLElement>("#critical-error");
  const from = event.target;
  if (!place || !(from instanceof Element) || !from.closest("#critical")) return;
  const request = (event as CustomEvent<{ xhr?: XMLHttpRequest }>).detail.xhr;
  const page = new DOMParser().parseFromString(request?.responseText ?? "", "text/html");
  const said = page.querySelector("main p:not(.quiet)")?.textContent?.trim();
  place.textContent = said || "This was not recorded. Try again.";
  place.hidden = false;
  place.scrollIntoView({ block: "nearest" });
}

function openFirst(): void {
  const first = document.querySelector<HTMLElement>("#critical [data-critical=first], #critical [data-critical=mark]");
  if (!first) return;
  if (first.parentElement instanceof HTMLDetailsElement) first.parentElement.open = true;
  first.scrollIntoView({ block: "nearest" });
  const field = first.parentElement?.querySelector<HTMLElement>("select, input:not([type=hidden])");
  (first instanceof HTMLButtonElement ? first : (field ?? first)).focus();
}

function typing(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}

let isStarted = false;

function startOnce(): void {
  if (isStarted) return;
  isStarted = true;
  setInterval(tick, 1000);
  document.addEventListener("htmx:responseError", sayWhy);
  document.addEventListener("click", (event) => {
    const close = event.target instanceof Element ? event.target.closest("[data-critical-close]") : null;
    close?.closest(".critical-toast")?.remove();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "!" || typing(event.target) || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    openFirst();
  });
}

// Starts alerts inside what was just loaded.
export function startCritical(loaded: Element): void {
  startOnce();
  const clocks = [...loaded.querySelectorAll<HTMLElement>(".critical-clock[data-left]")];
  clocks.forEach(startClock);
}
