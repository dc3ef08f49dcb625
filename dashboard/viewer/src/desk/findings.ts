// Which finding is current, and its way to the images: the event the viewport listens to, else the link of the page.
export interface ShowDetail {
  sopInstanceUid?: string;
  seriesInstanceUid?: string;
  segmentLabel?: string;
  trackingUid?: string;
}

let currentId = "";

export function findings(): HTMLElement[] {
  return [...document.querySelectorAll<HTMLElement>("article.finding")];
}

export function findingOf(id: string): HTMLElement | null {
  return id ? document.querySelector<HTMLElement>(`article.finding[data-finding="${CSS.escape(id)}"]`) : null;
}

export function currentFinding(): HTMLElement | null {
  return findingOf(currentId);
}

export function mark(id: string): void {
  currentId = id;
  for (const one of findings()) one.classList.toggle("current", one.dataset["finding"] === id);
  document.dispatchEvent(new CustomEvent("desk:current", { detail: id }));
}

// after the findings were fetched anew
export function markAgain(): void {
  if (currentFinding()) mark(currentId);
}

export function show(id: string): void {
  const finding = findingOf(id);
  if (!finding) return;
  mark(id);
  if (finding.offsetParent) finding.scrollIntoView({ block: "nearest" });
  const link = finding.querySelector<HTMLAnchorElement>("a[data-jump]");
  const { sop, seriesUid, segment, tracking } = finding.dataset;
  const detail: ShowDetail = {
    ...(sop ? { sopInstanceUid: sop } : {}),
    ...(seriesUid ? { seriesInstanceUid: seriesUid } : {}),
    ...(link?.dataset["label"] || segment ? { segmentLabel: link?.dataset["label"] || segment! } : {}),
    ...(tracking ? { trackingUid: tracking } : {}),
  };
  document.dispatchEvent(new CustomEvent<ShowDetail>("firstread:show", { detail }));
  // the server's slices know no such event: their link does
  if (document.querySelector("#viewer")?.getAttribute("data-stage") !== "live") {
    link?.click();
    mark(id); // the viewer took the mark away when the link was not a finding's own
  }
}

export function select(by: number): void {
  const all = findings();
  if (!all.length) return;
  const at = all.findIndex((one) => one.dataset["finding"] === currentId);
  const next = all[Math.max(0, Math.min(all.length - 1, at + by))] ?? all[0]!;
  show(next.dataset["finding"]!);
}

// a click on a finding, or on a sentence of one, marks it; its link moves the images
document.addEventListener("click", (event) => {
  const target = event.target as Element;
  const link = target.closest<HTMLElement>("a[data-jump]");
  const id = link?.dataset["of"] ?? link?.closest<HTMLElement>("article.finding")?.dataset["finding"];
  if (id) window.setTimeout(() => mark(id)); // after the viewer's own handler
  else if (!target.closest("a, button, input, summary, form, select, textarea")) {
    const card = target.closest<HTMLElement>("article.finding");
    if (card && !window.getSelection()?.toString()) show(card.dataset["finding"]!);
  }
});
