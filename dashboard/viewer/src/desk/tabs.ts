// The parts of the desk as tabs (ARIA authoring practices: arrows move, focus selects). Without this script they are
// simply one below the other.
let tabs: HTMLAnchorElement[] = [];

const nameOf = (tab: HTMLAnchorElement): string => tab.dataset["tab"] ?? "";
const partOf = (name: string): HTMLElement | null => document.querySelector<HTMLElement>(`[data-part="${name}"]`);

export function currentTab(): string {
  return nameOf(tabs.find((one) => one.getAttribute("aria-selected") === "true") ?? tabs[0]!);
}

export function selectTab(name: string, { focus = false, remember = true } = {}): void {
  const chosen = tabs.find((one) => nameOf(one) === name);
  if (!chosen) return;
  for (const tab of tabs) {
    const isChosen = tab === chosen;
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
    const part = partOf(nameOf(tab));
    if (part) part.hidden = !isChosen;
  }
  if (focus || chosen.parentElement?.contains(document.activeElement)) chosen.focus();
  if (remember) history.replaceState(history.state, "", `${location.pathname}${location.search}#tab-${name}`);
  document.dispatchEvent(new CustomEvent("desk:tab", { detail: name }));
}

export function selectAt(position: number): void {
  const tab = tabs[position];
  if (tab) selectTab(nameOf(tab), { focus: true });
}

// #findings, #finding-…, #evidence …: whatever an address or a link on the page names
export function reveal(hash: string): boolean {
  const target = hash.length > 1 ? document.getElementById(decodeURIComponent(hash.slice(1))) : null;
  const part = target?.closest<HTMLElement>("[data-part]");
  if (!target || !part) return false;
  selectTab(part.dataset["part"]!, { remember: false });
  if (target !== part) target.scrollIntoView({ block: "start" });
  return true;
}

export function startTabs(): void {
  const bar = document.querySelector<HTMLElement>("#desk-tabs");
  if (!bar || tabs.length) return;
  tabs = [...bar.querySelectorAll<HTMLAnchorElement>("a[data-tab]")];
  bar.setAttribute("role", "tablist");
  for (const tab of tabs) {
    const part = partOf(nameOf(tab));
    tab.id = `label-${nameOf(tab)}`;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", part?.id ?? "");
    part?.setAttribute("role", "tabpanel");
    part?.setAttribute("aria-labelledby", tab.id);
    tab.addEventListener("click", (event) => {
      event.preventDefault();
      selectTab(nameOf(tab));
    });
  }
  bar.addEventListener("keydown", (event) => {
    const at = tabs.indexOf(event.target as HTMLAnchorElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    event.stopPropagation(); // Home and End scroll the images elsewhere
    selectAt((to + tabs.length) % tabs.length);
  });
  document.addEventListener("click", (event) => {
    const link = (event.target as Element).closest<HTMLAnchorElement>("a[href^='#']");
    if (link && !link.dataset["tab"] && reveal(link.getAttribute("href")!)) event.preventDefault();
  });
  window.addEventListener("hashchange", () => reveal(location.hash));
  if (!reveal(location.hash)) selectTab("report", { remember: false });
}
