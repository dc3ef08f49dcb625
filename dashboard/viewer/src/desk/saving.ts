// Saves the text after a pause and when the field is left, says what became of it, and never loses it.
import { forget, keep, kept } from "./unsaved";

const RETRY_MS = [2000, 5000, 15_000, 30_000];

export class Saving {
  private typed = 0; // counts inputs; what was typed while a save was under way is saved next
  private saved = 0;
  private under: Promise<boolean> | null = null;
  private timer = 0;
  private failures = 0;
  private isStale = false; // somebody else was faster: only the comparison helps
  private readonly pauseMs: number;
  private readonly desk = document.querySelector<HTMLElement>("#desk")!;

  constructor(readonly form: HTMLFormElement) {
    this.pauseMs = Number(form.dataset["autosaveS"] ?? "4") * 1000;
    form.addEventListener("input", (event) => event.target instanceof HTMLTextAreaElement && this.changed());
    form.addEventListener("focusout", (event) => {
      if (event.target instanceof HTMLTextAreaElement && this.pending) this.later(300);
    });
    form.addEventListener("submit", (event) => {
      if ((event as SubmitEvent).submitter?.hasAttribute("formaction")) return;
      event.preventDefault();
      void this.save(true);
    });
    // what was typed before this script came is text of the reader's too
    if ([...form.querySelectorAll("textarea")].some((area) => area.value !== area.defaultValue)) this.changed();
  }

  get pending(): boolean {
    return this.typed !== this.saved || this.under !== null;
  }

  // save now; `asked` when a person waits for it, who is then shown both texts when somebody else was faster
  async save(asked = false): Promise<boolean> {
    window.clearTimeout(this.timer);
    if (this.under && !(await this.under)) return false;
    if (this.typed === this.saved) return true;
    if (this.isStale) return asked ? this.compare() : false;
    this.under = this.send();
    const done = await this.under;
    this.under = null;
    if (!done && this.isStale && asked) return this.compare();
    // what was typed meanwhile waits for its own pause, unless somebody waits for it
    return done && asked && this.typed !== this.saved ? this.save(true) : done;
  }

  // with the session back, or the network
  again(): void {
    if (this.pending && !this.isStale) this.later(0);
  }

  leave(): boolean {
    if (this.pending) this.store();
    return this.pending;
  }

  offer(): void {
    const text = kept(this.study, this.reader);
    if (!text) return;
    const changed = Object.entries(text.sections).filter(([key, value]) => this.area(key) && this.area(key)!.value !== value);
    if (!changed.length) return forget(this.study);
    const notice = document.createElement("div");
    notice.className = "notice warn";
    notice.setAttribute("role", "alert");
    notice.append("Text of yours was not saved when this page was left.");
    const row = document.createElement("span");
    row.className = "row";
    row.append(
      button("Put it back", () => {
        // made from the version it was typed on: when the report moved on since, both texts are shown
        this.form.querySelector<HTMLInputElement>("input[name=version]")!.value = text.version;
        for (const [key, value] of changed) this.area(key)!.value = value;
        this.form.dispatchEvent(new CustomEvent("desk:filled"));
        this.changed();
        notice.remove();
      }),
      button("Discard it", () => {
        forget(this.study);
        notice.remove();
      }),
    );
    notice.append(row);
    this.form.before(notice);
  }

  private get study(): string {
    return this.desk.dataset["study"] ?? "";
  }

  private get reader(): string {
    return this.desk.dataset["reader"] ?? "";
  }

  private area(key: string): HTMLTextAreaElement | null {
    return this.form.querySelector<HTMLTextAreaElement>(`textarea[name="${CSS.escape(key)}"]`);
  }

  private changed(): void {
    this.typed += 1;
    if (!this.isStale) this.say("Unsaved changes", "unsaved");
    this.later(this.pauseMs);
  }

  private later(ms: number): void {
    window.clearTimeout(this.timer);
    this.timer = window.setTimeout(() => void this.save(), ms);
  }

  private body(): URLSearchParams {
    const body = new URLSearchParams();
    for (const [name, value] of new FormData(this.form)) {
      if (["csrf_token", "version", "revision"].includes(name) || this.area(name)) body.append(name, String(value));
    }
    return body;
  }

  private async send(): Promise<boolean> {
    const upTo = this.typed;
    this.say("Saving…", "");
    let answer: Response;
    try {
      const headers = { "HX-Request": "true" };
      answer = await fetch(this.form.action, { method: "POST", body: this.body(), headers, credentials: "same-origin" });
    } catch {
      return this.failed("no connection. Your text stays here and is tried again");
    }
    if (answer.ok) return this.done(answer, upTo);
    if (answer.status === 409) {
      this.isStale = true;
      this.store();
      this.say("Not saved: the report changed elsewhere.", "unsaved", button("Compare both texts", () => void this.compare()));
      return false;
    }
    if (answer.status === 401 || answer.status === 423) {
      document.body.dispatchEvent(new CustomEvent("screen:refused", { detail: { status: answer.status } }));
      return this.failed("log in again. Your text stays here");
    }
    const why = { 400: "this text cannot be accepted", 403: "you may not edit it", 413: "the text is too long" }[answer.status];
    return this.failed(why ?? "the server had trouble. Your text stays here and is tried again", !why);
  }

  private async done(answer: Response, upTo: number): Promise<boolean> {
    const said = new DOMParser().parseFromString(await answer.text(), "text/html").body.textContent?.trim();
    const told = JSON.parse(answer.headers.get("HX-Trigger") ?? "{}") as { reportVersion?: number };
    if (told.reportVersion === undefined) return this.failed("the server's answer was not understood"); // a login page
    this.failures = 0;
    this.saved = upTo;
    document.body.dispatchEvent(new CustomEvent("reportVersion", { detail: { value: told.reportVersion } }));
    const revision = this.form.querySelector<HTMLInputElement>("input[name=revision]");
    if (revision) revision.value = answer.headers.get("Report-Revision") ?? revision.value;
    if (this.typed === this.saved) {
      forget(this.study);
      this.say(said ?? "Saved", "saved");
    } else this.say("Unsaved changes", "unsaved");
    return true;
  }

  private failed(why: string, again = true): boolean {
    this.store();
    this.say(`Not saved: ${why}.`, "unsaved");
    if (again) this.later(RETRY_MS[Math.min(this.failures++, RETRY_MS.length - 1)]!);
    return false;
  }

  private store(): void {
    const fields = new FormData(this.form);
    const names = [...this.form.querySelectorAll("textarea")].map((one) => one.name);
    const sections = Object.fromEntries(names.map((name) => [name, String(fields.get(name) ?? "").replaceAll("\r\n", "\n")]));
    keep(this.study, { reader: this.reader, version: String(fields.get("version") ?? ""), sections });
  }

  // the page with both texts; the whole form goes there, and nothing is saved by it
  private compare(): false {
    this.saved = this.typed; // no question on leaving: the text goes along
    this.under = null;
    HTMLFormElement.prototype.submit.call(this.form);
    return false;
  }

  private say(words: string, kind: string, action?: HTMLElement): void {
    const state = document.querySelector<HTMLElement>("#save-state");
    if (!state) return;
    state.className = kind;
    state.replaceChildren(words, ...(action ? [" ", action] : []));
  }
}

// every form of the page sends the version it was made from
export function setVersion(version: number): void {
  for (const input of document.querySelectorAll<HTMLInputElement>("#desk input[name=version]")) input.value = String(version);
  const state = document.querySelector<HTMLElement>("#save-state:not(.unsaved)");
  if (state) state.textContent = `Version ${version}`;
}

export function button(words: string, act: () => void): HTMLButtonElement {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "small";
  made.textContent = words;
  made.addEventListener("click", act);
  return made;
}
