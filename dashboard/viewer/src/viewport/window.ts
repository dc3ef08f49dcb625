// The second monitor: the images alone in a window of their own. Both follow each other; a window never shows another
// study than the report does.
import type { ShowDetail } from "./model";
import type { Stage } from "./stage";

type Message =
  | { kind: "hello" | "bye"; study: string; isAlone: boolean }
  | { kind: "report"; study: string }
  | { kind: "moved"; study: string; series: string | undefined; index: number }
  | { kind: "show"; study: string; detail: ShowDetail };
type Told = Message extends infer One ? (One extends { study: string } ? Omit<One, "study"> : never) : never;

const channel = "BroadcastChannel" in window ? new BroadcastChannel("firstread-images") : null;
let opened: Window | null = null;
let isFollowing = false; // what came from the other window is not sent back

function root(): HTMLElement | null {
  return document.querySelector<HTMLElement>("#viewer");
}

function study(): string {
  return root()?.dataset["study"] ?? "";
}

function isAlone(): boolean {
  return document.body.classList.contains("viewer-window");
}

export function announce(message: Told): void {
  if (!isFollowing && study()) channel?.postMessage({ ...message, study: study() });
}

export function listen(): void {
  document.addEventListener("click", (event) => {
    const button = (event.target as Element).closest<HTMLElement>("[data-viewer-window]");
    if (button) openWindow(button);
  });
  window.addEventListener("pagehide", () => announce({ kind: "bye", isAlone: isAlone() }));
  channel?.addEventListener("message", (event) => hear(event.data as Message));
  announce({ kind: "hello", isAlone: isAlone() });
  if (!isAlone()) announce({ kind: "report" });
}

function openWindow(button: HTMLElement): void {
  opened = window.open(`/studies/${study()}/viewer-window`, "firstread-images", "popup,width=1600,height=1000");
  if (!opened) return note("The browser did not allow a second window.");
  note("The images are also in their own window; both follow each other.");
  const watch = window.setInterval(() => {
    if (!opened?.closed) return;
    window.clearInterval(watch);
    note("The image window was closed.");
    button.focus();
  }, 700);
}

function hear(message: Message): void {
  if (message.kind === "report" && isAlone() && message.study !== study()) refuse();
  if (message.kind === "report" && isAlone() && message.study === study()) document.querySelector(".cs-refused")?.remove();
  // a window that opens late learns which report is open
  if (message.kind === "hello" && message.isAlone && !isAlone()) announce({ kind: "report" });
  if (message.kind === "bye" && !message.isAlone && isAlone() && message.study === study()) note("The report was closed.");
}

function refuse(): void {
  if (document.querySelector(".cs-refused")) return;
  const panel = document.createElement("div");
  panel.className = "cs-refused";
  panel.setAttribute("role", "alert");
  const text = document.createElement("p");
  text.textContent = "The report window shows another study. These images are not of that report.";
  panel.append(text);
  root()?.append(panel);
}

function note(text: string): void {
  const place = document.querySelector(".cs-message");
  if (place) place.textContent = text;
}

// what the other window shows, this one shows; only of the same study
export function onRemote(stage: Stage, signal: AbortSignal): void {
  const follow = async (message: Message): Promise<void> => {
    if (message.study !== study()) return;
    isFollowing = true;
    try {
      if (message.kind === "show") await stage.show(message.detail);
      else if (message.kind === "moved" && message.series) await moveTo(stage, message.series, message.index);
    } finally {
      window.setTimeout(() => (isFollowing = false), 60);
    }
  };
  channel?.addEventListener("message", (event) => void follow(event.data as Message), { signal });
}

async function moveTo(stage: Stage, series: string, index: number): Promise<void> {
  const pane = stage.panes.find((one) => one.stack?.series.id === series);
  if (pane) await pane.goTo(index);
  else if (stage.scene.series.some((one) => one.id === series)) await stage.hangSeries(stage.active, series, index);
}
