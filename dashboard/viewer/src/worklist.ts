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
