// Starts the Cornerstone3D viewer inside what was just loaded. The server's slices are on the screen until it has its
// first image, and stay when it cannot start.
import { leaveToStage, startViewer } from "../slices/viewer";
import { askEarly } from "./model";
import { startSplitter } from "./splitter";
import { listen } from "./window";

let isListening = false;

export function startViewport(loaded: Element): void {
  const root = loaded.matches("#viewer") ? loaded : loaded.querySelector("#viewer");
  if (!isListening && (root || document.querySelector("#viewer"))) {
    isListening = true;
    listen();
  }
  if (loaded.matches("#findings") || loaded.querySelector("#findings")) document.dispatchEvent(new CustomEvent("firstread:decided"));
  if (!(root instanceof HTMLElement) || root.dataset["stage"] !== "wanted") return;
  root.dataset["stage"] = "starting";
  startSplitter(root);
  if (root.dataset["series"]) askEarly(root.dataset["study"] ?? "", root.dataset["series"]);
  void open(root);
}

async function open(root: HTMLElement): Promise<void> {
  try {
    const { openStage } = await import("./room");
    const stage = await openStage(root);
    if (!root.isConnected) return; // another page part has taken its place
    root.dataset["stage"] = "live";
    leaveToStage(root, stage);
  } catch (error) {
    if (!root.isConnected) return;
    // a browser too old for it, a blocked script: the server's slices do
    console.warn("The slices are shown by the server:", error instanceof Error ? error.message : error);
    root.dataset["stage"] = "off";
    startViewer(root);
  }
}
