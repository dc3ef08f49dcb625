// Keys of the images beyond those of desk/keys.ts (scrolling, windows, overlays, reset). What another room has taken
// is left to it.
import { invert, mirror, rotate, zoomBy } from "./moves";
import type { Stage } from "./stage";

const KEYS: Record<string, (stage: Stage) => void> = {
  m: (stage) => void stage.toggleReformat(),
  p: (stage) => void stage.togglePrior(),
  l: (stage) => stage.choose("LENGTH"),
  g: (stage) => stage.choose("ANGLE"),
  u: (stage) => stage.choose("RECTANGLE"),
  o: (stage) => stage.choose("ELLIPSE"),
  j: (stage) => stage.choose("PROBE"),
  t: (stage) => stage.choose("ARROW"),
  f: (stage) => stage.choose("scroll"),
  i: (stage) => invert(stage.active),
  h: (stage) => mirror(stage.active),
  v: (stage) => rotate(stage.active),
  c: (stage) => stage.toggleCine(),
  y: (stage) => stage.nextLayout(),
  k: (stage) => stage.toggleLink(),
  z: (stage) => stage.choose("zoom"),
  "+": (stage) => zoomBy(stage.active, 1.25),
  "-": (stage) => zoomBy(stage.active, 0.8),
  Delete: (stage) => void stage.removeSelected(),
};

function isTyping(target: EventTarget | null): boolean {
  if (target instanceof HTMLInputElement) return !["checkbox", "radio", "range"].includes(target.type);
  return target instanceof HTMLElement && (target.isContentEditable || /^(TEXTAREA|SELECT)$/.test(target.tagName));
}

export function bindKeys(stage: Stage, signal: AbortSignal): void {
  document.addEventListener(
    "keydown",
    (event) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
      if (document.querySelector("dialog[open]")) return;
      const act = KEYS[event.key];
      if (!act) return;
      event.preventDefault();
      act(stage);
    },
    { signal },
  );
}
