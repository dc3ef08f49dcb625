// Keys of the images beyond those of desk/keys.ts (scrolling, windows, overlays, reset). What another room has taken
// is left to it.
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
  i: (stage) => stage.invert(),
  h: (stage) => stage.flip(true),
  v: (stage) => stage.rotate(),
  c: (stage) => stage.toggleCine(),
  y: (stage) => stage.nextLayout(),
  k: (stage) => stage.toggleLink(),
  z: (stage) => stage.choose("zoom"),
  "+": (stage) => zoom(stage, 1.25),
  "-": (stage) => zoom(stage, 0.8),
  Delete: (stage) => void stage.removeSelected(),
};

function zoom(stage: Stage, by: number): void {
  const { viewport } = stage.active;
  viewport.setZoom(viewport.getZoom() * by);
  viewport.render();
}

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
