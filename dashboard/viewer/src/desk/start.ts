// The report side of the reading page.
import { insert, startFields, writingPlace } from "./fields";
import { markAgain } from "./findings";
import { Paper } from "./paper";
import { Saving, button, setVersion } from "./saving";
import { currentTab, selectTab, startTabs } from "./tabs";

interface Asked {
  readonly elt: Element;
  readonly verb: string;
  readonly issueRequest: (sure: boolean) => void;
}

let saving: Saving | null = null;
let papers: Paper[] = [];
let returnTo = "";
let isListening = false;

export function startDesk(loaded: Element): void {
  if (!document.querySelector("#desk")) return;
  if (!isListening) {
    isListening = true;
    startTabs();
    listen();
  }
  const form = document.querySelector<HTMLFormElement>("form#sections");
  if (form && saving?.form !== form) take(form);
  if (loaded.matches("#findings") || loaded.querySelector("#findings")) {
    markAgain();
    if (returnTo) selectTab(returnTo);
    returnTo = "";
  }
  paintAll();
}

function paintAll(): void {
  for (const paper of papers) paper.paint();
  const legend = document.querySelector<HTMLElement>(".ai-legend");
  if (legend && papers.length) legend.hidden = !document.querySelector(".tint .ai");
}

// a decision that needs words is made in the Findings tab; afterwards the reader is back where they were
export function toFindings(): void {
  if (currentTab() === "findings") return;
  returnTo = currentTab();
  selectTab("findings");
}

export function stay(): void {
  if (returnTo) selectTab(returnTo);
  returnTo = "";
}

export function saveNow(): boolean {
  void saving?.save(true);
  return saving !== null;
}

function take(form: HTMLFormElement): void {
  saving = new Saving(form);
  papers = [...form.querySelectorAll<HTMLTextAreaElement>(".paper textarea")].map((area) => new Paper(area));
  form.addEventListener("input", (event) => papers.find((one) => one.area === event.target)?.paint());
  form.addEventListener("desk:filled", paintAll);
  startFields(form);
  saving.offer();
}

function listen(): void {
  document.addEventListener("desk:current", paintAll);
  document.addEventListener("desk:tab", paintAll); // hidden text has no height
  window.addEventListener("resize", paintAll);
  document.addEventListener("firstread:measured", (event) => offerMeasurement((event as CustomEvent<{ text: string; isNew?: boolean }>).detail));
  document.body.addEventListener("reportVersion", (event) => setVersion((event as CustomEvent<{ value: number }>).detail.value));
  document.body.addEventListener("screen:mark", () => saving?.again());
  window.addEventListener("online", () => saving?.again());
  window.addEventListener("beforeunload", (event) => {
    if (saving?.leave()) event.preventDefault();
  });
  // whatever else is asked of the server waits until the text is there: nothing acts on an old text
  document.body.addEventListener("htmx:confirm", (event) => {
    const { elt, verb, issueRequest } = (event as CustomEvent<Asked>).detail;
    const isPassive = elt.hasAttribute("data-passive") || (verb === "get" && !elt.closest("#history, .changes"));
    if (!saving?.pending || !elt.closest("#desk") || isPassive) return;
    event.preventDefault();
    void saving.save(true).then((done) => done && issueRequest(true));
  });
  document.addEventListener("click", (event) => {
    const link = (event.target as Element).closest<HTMLAnchorElement>("a[data-needs-save]");
    if (!link || !saving?.pending || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    void saving.save(true).then((done) => done && location.assign(link.href));
  });
  // forms of other rooms too; those of htmx were held above
  document.addEventListener("submit", (event) => {
    const form = event.target as HTMLFormElement;
    const isOurs = form.id === "sections" || form.hasAttribute("hx-post") || form.method === "dialog";
    if (event.defaultPrevented || isOurs || !form.closest("#desk") || !saving?.pending) return;
    event.preventDefault();
    const { submitter } = event;
    void saving.save(true).then((done) => done && form.requestSubmit(submitter));
  });
  document.addEventListener("click", (event) => {
    const target = event.target as Element;
    if (target.closest("a[data-about]")) showAbout(event);
    for (const menu of document.querySelectorAll<HTMLDetailsElement>("#desk details.menu[open]")) {
      if (!menu.contains(target)) menu.open = false;
    }
  });
  keepPlace();
}

// an act on the text brings it anew; the reader's place in it stays
function keepPlace(): void {
  const body = document.querySelector<HTMLElement>("#desk-body");
  let top = 0;
  document.body.addEventListener("htmx:beforeSwap", () => (top = body?.scrollTop ?? 0));
  document.body.addEventListener("htmx:afterSettle", (event) => {
    if (body && (event.target as Element).closest("#tab-report, #tab-findings")) body.scrollTop = top;
  });
}

function showAbout(event: MouseEvent): void {
  const dialog = document.querySelector<HTMLDialogElement>("dialog#about-draft");
  const card = document.querySelector("#about");
  if (!dialog || !card) return;
  event.preventDefault();
  const copy = card.cloneNode(true) as HTMLElement;
  for (const one of [copy, ...copy.querySelectorAll("[id], [aria-labelledby]")]) {
    one.removeAttribute("id");
    one.removeAttribute("aria-labelledby");
  }
  dialog.querySelector(".about-body")!.replaceChildren(copy);
  dialog.showModal();
}

// a measurement goes into the text only when the reader says so
function offerMeasurement(detail: { text: string; isNew?: boolean }): void {
  const place = document.querySelector<HTMLElement>("#measured");
  if (!place || !detail.text) return;
  const close = (): void => {
    place.hidden = true;
    place.replaceChildren();
  };
  const put = button(`Insert “${detail.text}”`, () => {
    const area = writingPlace();
    close();
    if (area) insert(area, area.selectionStart, area.selectionEnd, `${spaceBefore(area)}${detail.text}`);
  });
  const not = button("✕", close);
  not.setAttribute("aria-label", "Do not insert the measurement");
  place.replaceChildren(put, not);
  place.hidden = false;
}

function spaceBefore(area: HTMLTextAreaElement): string {
  const before = area.value.slice(0, area.selectionStart);
  return before && !/\s$/.test(before) ? " " : "";
}
