// The screen lock. What is on the page stays there, covered, out of the accessibility tree and out of reach of keys.
import { markOf } from "./passkey";

interface State {
  login: string;
  locked: boolean;
  csrf: string;
  error?: string;
}

const CHANNEL = "firstread-screen";
const ALIVE_MS = 60_000;
const ACTIVITY = ["keydown", "pointerdown", "wheel", "touchstart"];

class Lock {
  private readonly channel = new BroadcastChannel(CHANNEL);
  private readonly after: number;
  private readonly form: HTMLFormElement | null;
  private title = "";
  private last = Date.now();
  private told = Date.now();
  private timer = 0;

  constructor(private readonly dialog: HTMLDialogElement) {
    this.after = Number(dialog.dataset["after"]) * 1000;
    this.form = dialog.querySelector<HTMLFormElement>("#unlock");
    this.channel.addEventListener("message", (event) => this.heard(String(event.data)));
    for (const kind of ACTIVITY) window.addEventListener(kind, () => this.touched(), { capture: true, passive: true });
    for (const kind of ["keydown", "keyup", "keypress"]) {
      // no key typed at the lock may reach the page's own keys
      window.addEventListener(kind, (event) => this.covered && this.hold(event as KeyboardEvent), true);
    }
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => this.covered && dialog.showModal());
    this.form?.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.open();
    });
    document.querySelector("[data-lock-now]")?.addEventListener("click", (event) => {
      event.preventDefault();
      void this.lock();
    });
    for (const kind of ["htmx:responseError", "screen:refused"]) {
      document.body.addEventListener(kind, (event) => this.refused(event as CustomEvent<{ xhr?: XMLHttpRequest }>));
    }
    // a machine that slept wakes with its timers late
    document.addEventListener("visibilitychange", () => this.check());
    this.check();
    if (dialog.dataset["locked"] === "1") this.cover();
  }

  private get covered(): boolean {
    return document.documentElement.classList.contains("locked");
  }

  private hold(event: KeyboardEvent): void {
    event.stopImmediatePropagation();
    if (event.key === "Escape" || !this.dialog.contains(event.target as Node)) event.preventDefault();
  }

  private touched(): void {
    if (this.covered) return;
    this.last = Date.now();
    if (this.last - this.told < ALIVE_MS) return;
    this.told = this.last;
    this.channel.postMessage("touched"); // somebody works in another window of this session
    void this.state(true);
  }

  private check(): void {
    window.clearTimeout(this.timer);
    if (this.covered) return;
    const left = this.last + this.after - Date.now();
    if (left <= 0) void this.lock();
    else this.timer = window.setTimeout(() => this.check(), Math.min(left, 2 ** 30) + 5);
  }

  private heard(what: string): void {
    if (what === "touched") this.last = Date.now();
    else if (what === "lock") this.cover();
    else if (what === "open") void this.resume();
  }

  async lock(): Promise<void> {
    if (this.covered) return;
    const fields = new FormData();
    fields.set("csrf_token", this.form ? markOf(this.form) : "");
    this.cover();
    this.channel.postMessage("lock");
    // covered whatever the server answers: without it nothing can be opened again
    await fetch(this.dialog.dataset["lock"] ?? "", { method: "POST", body: fields, redirect: "manual" }).catch(() => null);
  }

  private cover(words?: string): void {
    if (this.covered) return;
    if (document.fullscreenElement) void document.exitFullscreen();
    document.documentElement.classList.add("locked");
    for (const part of document.body.children) if (part !== this.dialog) part.setAttribute("inert", "");
    this.title = document.title;
    document.title = "Locked · Firstread";
    const place = this.dialog.querySelector<HTMLElement>("[data-lock-words]");
    if (place && words) place.textContent = words;
    this.say("");
    // the newest modal dialog is the one that can be reached
    if (this.dialog.open) this.dialog.close();
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.querySelector<HTMLElement>("#lock-password, [data-passkey-use], a")?.focus();
  }

  private uncover(): void {
    if (!this.covered) return;
    document.documentElement.classList.remove("locked");
    for (const part of document.body.children) part.removeAttribute("inert");
    document.title = this.title;
    this.dialog.close();
    this.last = Date.now();
    this.check();
  }

  private say(words: string): void {
    const place = this.dialog.querySelector<HTMLElement>("[data-lock-error]");
    if (!place) return;
    place.textContent = words;
    place.hidden = !words;
  }

  private async state(touch = false): Promise<State | null> {
    const address = `${this.dialog.dataset["state"] ?? ""}${touch ? "?touch=1" : ""}`;
    const answer = await fetch(address, { cache: "no-store" }).catch(() => null);
    return answer?.ok ? ((await answer.json()) as State) : null;
  }

  private async open(): Promise<void> {
    const form = this.form;
    const before = await this.state(); // a session that ended has another mark
    if (!form || !before) return this.say("The server does not answer.");
    this.adopt(before.csrf);
    const answer = await fetch(form.action, {
      method: "POST",
      body: new FormData(form),
      headers: { Accept: "application/json" },
    }).catch(() => null);
    form.querySelectorAll<HTMLInputElement>("input[type=password], input[name=passkey]").forEach((one) => (one.value = ""));
    if (!answer) return this.say("The server does not answer.");
    if (answer.status === 429) return this.say("Too many attempts. Wait a minute.");
    const found = (await answer.json().catch(() => null)) as State | null;
    if (!answer.ok || !found) return this.say(found?.error ?? "That did not work. Try again.");
    this.adopt(found.csrf);
    this.uncover();
    this.channel.postMessage("open");
  }

  // somebody unlocked, or logged in, in another window
  private async resume(): Promise<void> {
    const found = await this.state();
    if (!found || found.locked || found.login !== this.dialog.dataset["login"]) return;
    this.adopt(found.csrf);
    this.uncover();
  }

  private adopt(mark: string): void {
    for (const input of document.querySelectorAll<HTMLInputElement>("input[name=csrf_token]")) input.value = mark;
    document.body.dispatchEvent(new CustomEvent("screen:mark", { detail: mark }));
  }

  private refused(event: CustomEvent<{ xhr?: XMLHttpRequest; status?: number }>): void {
    const status = event.detail.xhr?.status ?? event.detail.status;
    if (status === 423) this.cover();
    if (status === 401) this.cover("Your session has ended. Give your password to go on; your page is as you left it.");
  }
}

let lock: Lock | null = null;

export function startLock(): void {
  if (document.querySelector("[data-screen-opened]")) new BroadcastChannel(CHANNEL).postMessage("open");
  const dialog = document.querySelector<HTMLDialogElement>("dialog#lock-screen");
  if (dialog && !lock) lock = new Lock(dialog);
}
