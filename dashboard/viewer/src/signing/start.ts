// Signing: the clock of the images, the checks that lead to their words, the countdown, a session that ended.

import { selectTab } from "../desk/tabs";

const BEAT_S = 5;
let opened = "";

/** Starts everything of signing inside what was just loaded. */
export function startSigning(loaded: Element): void {
  startClock();
  startChecks(loaded);
  startCountdown(loaded);
  for (const form of all<HTMLFormElement>(loaded, "form[data-signs]")) startForm(form);
}

function all<T extends Element>(loaded: Element, selector: string): T[] {
  const found = [...loaded.querySelectorAll<T>(selector)];
  return loaded.matches(selector) ? [loaded as T, ...found] : found;
}

/** Tells the server how long images were on the screen; it believes no more than its own clock. */
function startClock(): void {
  const study = /^\/studies\/([0-9a-f-]{36})$/.exec(location.pathname)?.[1] ?? "";
  if (!study || opened === study) return;
  opened = study;
  let heard = false;
  document.addEventListener("firstread:viewed", (event) => {
    heard = true;
    const detail = (event as CustomEvent<{ seconds?: number; first?: boolean }>).detail;
    void tell(study, detail.seconds ?? 0).then((ok) => {
      if (ok && detail.first) document.body.dispatchEvent(new CustomEvent("firstread:seen"));
    });
  });
  // where the viewport cannot run, the plain viewer's picture counts while the page is looked at
  window.setInterval(() => {
    const picture = document.querySelector<HTMLImageElement>("#viewer img");
    if (heard || !picture?.complete || !picture.naturalWidth || document.visibilityState !== "visible") return;
    void tell(study, BEAT_S);
  }, BEAT_S * 1000);
}

async function tell(study: string, seconds: number): Promise<boolean> {
  const mark = document.querySelector<HTMLInputElement>('input[name="csrf_token"]')?.value ?? "";
  const body = new URLSearchParams({ csrf_token: mark, seconds: String(seconds) });
  const answer = await fetch(`/studies/${study}/viewed`, { method: "POST", body, keepalive: true }).catch(() => null);
  return answer?.ok ?? false;
}

/** An issue leads to its words: the section is focused, the words selected. */
function startChecks(loaded: Element): void {
  for (const link of all<HTMLAnchorElement>(loaded, "a[data-issue]")) {
    link.addEventListener("click", (event) => {
      const area = document.getElementById(`section-${link.dataset["issue"] ?? ""}`);
      if (!(area instanceof HTMLTextAreaElement)) return;
      event.preventDefault();
      selectTab("report", { remember: false });
      area.focus({ preventScroll: true });
      area.setSelectionRange(Number(link.dataset["from"]), Number(link.dataset["to"]));
      // only the desk scrolls: scrollIntoView would move the images too
      const desk = area.closest("#desk-body");
      if (desk) desk.scrollTop += area.getBoundingClientRect().top - desk.getBoundingClientRect().top - 80;
    });
  }
}

function startCountdown(loaded: Element): void {
  for (const place of all<HTMLElement>(loaded, "[data-countdown]")) {
    const end = performance.now() + Number(place.dataset["countdown"]) * 1000;
    const words = place.querySelector("[data-seconds]");
    const bar = place.querySelector("progress");
    const timer = window.setInterval(() => {
      const left = Math.max(0, (end - performance.now()) / 1000);
      if (!place.isConnected || left === 0) window.clearInterval(timer);
      if (words) words.textContent = String(Math.ceil(left));
      if (bar) bar.value = left;
    }, 250);
  }
}

/** Asks whether the session still stands before a form is sent, so that nothing typed is lost at its end. */
function startForm(form: HTMLFormElement): void {
  let sure = false;
  form.addEventListener("submit", (event) => {
    if (sure || event.defaultPrevented) return;
    event.preventDefault();
    const by = event.submitter;
    void state(form).then((problem) => {
      const place = document.getElementById("session-error");
      if (place) {
        place.hidden = problem === "";
        place.textContent = problem;
        if (problem) place.scrollIntoView({ block: "center" });
      }
      if (problem) return;
      sure = true;
      form.requestSubmit(by instanceof HTMLButtonElement ? by : null);
    });
  });
}

async function state(form: HTMLFormElement): Promise<string> {
  const answer = await fetch(form.dataset["signs"] ?? "", { redirect: "manual" }).catch(() => null);
  if (answer === null) return "The server cannot be reached. Nothing was signed; your text stays here.";
  if (answer.status === 423) return "The screen is locked. Unlock it, then sign; your text stays here.";
  if (!answer.ok) return "Your session has ended. Nothing was signed. Log in in another tab, then sign here; your text stays.";
  const field = form.querySelector<HTMLInputElement>('input[name="csrf_token"]');
  if (field) field.value = await answer.text();
  return "";
}
