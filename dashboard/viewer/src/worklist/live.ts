// j and k move through the worklist, Enter opens.
export function startWorklist(): void {
  const rows = [...document.querySelectorAll<HTMLTableRowElement>("table.worklist tbody tr[data-open]")];
  if (!rows.length) return;
  let at = -1;
  const choose = (next: number): void => {
    at = Math.max(0, Math.min(rows.length - 1, next));
    rows.forEach((row, index) => row.classList.toggle("selected", index === at));
    rows[at]!.scrollIntoView({ block: "nearest" });
  };
  document.addEventListener("keydown", (event) => {
    const target = event.target as HTMLElement;
    if (/^(INPUT|TEXTAREA|SELECT|BUTTON|A)$/.test(target.tagName) || event.ctrlKey || event.metaKey) return;
    if (event.key === "j") choose(at + 1);
    else if (event.key === "k") choose(at - 1);
    else if (event.key === "Enter" && at >= 0) location.assign(rows[at]!.dataset["open"]!);
  });
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

// Puts what a pulse says of each timer where it is shown; one it does not speak of any more has ended.
export function showTimers(news: Element): void {
  for (const shown of document.querySelectorAll<HTMLElement>("[data-timer]")) {
    const said = news.querySelector(`[data-timer-of="${shown.dataset["timer"]!}"]`);
    if (said) shown.replaceChildren(...[...said.childNodes].map((node) => node.cloneNode(true)));
    else shown.textContent = "no longer waiting";
  }
}
