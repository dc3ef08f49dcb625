// One viewport: a stack or a reformatted plane, with its words, letters, scale bar, masks and what went wrong.
import { Enums, type RenderingEngine, type Types } from "@cornerstonejs/core";

import { paintMasks } from "./painting";
import type { Masks } from "./masks";
import type { Preset } from "./model";
import { dot, letters, type Stack } from "./stack";

export type Plane = "axial" | "sagittal" | "coronal";

export interface Box {
  uid: string;
  corners: [number, number, number, number]; // left, top, right, bottom in pixels of the frame
}

const TEMPLATE = `
  <div class="cs-element"></div><canvas class="cs-masks" aria-hidden="true"></canvas>
  <div class="corner tl"></div><div class="corner tr"></div>
  <div class="corner bl numeric"><span class="cs-slice"></span><br><span class="cs-place"></span></div>
  <div class="corner br numeric"><span class="cs-window"></span><br><span class="cs-zoom"></span></div>
  <span class="edge l"></span><span class="edge r"></span><span class="edge t"></span><span class="edge b"></span>
  <div class="cs-scale" aria-hidden="true"><i></i><span></span></div>
  <div class="cs-progress" role="progressbar" aria-label="Images loaded" aria-valuemin="0" aria-valuemax="100"><i></i></div>
  <div class="cs-trouble" role="alert" hidden><p></p><button type="button" class="small">Try again</button></div>`;

class Asked {
  giveUp: () => void = () => undefined;
  readonly givenUp = new Promise<void>((resolve) => (this.giveUp = resolve));
}

export class Pane {
  readonly root: HTMLElement;
  readonly element: HTMLDivElement;
  readonly masksCanvas: HTMLCanvasElement;
  stack: Stack | null = null;
  masks: Masks | null = null;
  plane: Plane | null = null;
  highlighted = "";
  box: Box | null = null;
  caption = "";
  linkOffset = 0;
  shown = -1; // the frame that is on the screen
  wanted = 0;
  private preset: Preset | null = null;
  private isHanging = false;
  private newest: Asked | null = null;
  onShown: (pane: Pane) => void = () => undefined;

  constructor(
    readonly id: string,
    private readonly engine: RenderingEngine,
    private readonly patient: string,
  ) {
    this.root = document.createElement("div");
    this.root.className = "cs-pane";
    this.root.tabIndex = 0;
    this.root.setAttribute("role", "group");
    this.root.innerHTML = TEMPLATE;
    this.element = this.find<HTMLDivElement>(".cs-element");
    this.masksCanvas = this.find<HTMLCanvasElement>(".cs-masks");
    this.element.addEventListener("contextmenu", (event) => event.preventDefault());
    this.element.addEventListener(Enums.Events.IMAGE_RENDERED, () => this.rendered());
    this.element.addEventListener("pointerdown", () => this.root.focus({ preventScroll: true }));
    this.find("button").addEventListener("click", () => void this.again());
  }

  find<T extends HTMLElement = HTMLElement>(selector: string): T {
    return this.root.querySelector<T>(selector)!;
  }

  // a volume viewport has the same methods as far as they are used here
  get viewport(): Types.IStackViewport {
    return this.engine.getViewport(this.id) as Types.IStackViewport;
  }

  enable(type: Enums.ViewportType, orientation?: Enums.OrientationAxis): void {
    const defaultOptions = { background: [0, 0, 0] as Types.Point3, ...(orientation ? { orientation } : {}) };
    this.engine.enableElement({ viewportId: this.id, element: this.element, type, defaultOptions });
    // the pane itself has the focus: Cornerstone's element would swallow every key
    for (const one of this.element.querySelectorAll("[tabindex]")) one.removeAttribute("tabindex");
    this.element.removeAttribute("tabindex");
  }

  // whether the picture has the size of the pane
  fits(): boolean {
    const { canvas } = this.viewport;
    const ratio = window.devicePixelRatio || 1;
    return !canvas || (Math.abs(canvas.width - this.element.clientWidth * ratio) < 2 && Math.abs(canvas.height - this.element.clientHeight * ratio) < 2);
  }

  // -- a stack

  async hang(stack: Stack, index: number, caption = ""): Promise<void> {
    if (this.stack) this.stack.listeners.delete(this.progressed);
    [this.stack, this.plane, this.caption, this.preset, this.shown, this.box] = [stack, null, caption, null, -1, null];
    this.highlighted = "";
    stack.listeners.add(this.progressed);
    this.wanted = index;
    this.describe();
    this.isHanging = true;
    const request = await this.attempt(async () => {
      await this.viewport.setStack(stack.imageIds, index);
      this.viewport.render();
    });
    if (request !== this.newest) return; // another stack hangs here, or is about to
    this.isHanging = false;
    stack.moveTo(this.wanted);
    if (this.wanted !== index) void this.goTo(this.wanted);
  }

  // the frame before stays on the screen until this one is here
  async goTo(index: number): Promise<void> {
    if (!this.stack || this.plane) return;
    const next = Math.max(0, Math.min(this.stack.count - 1, index));
    if (next === this.wanted && next === this.shown) return;
    this.wanted = next;
    if (this.isHanging) return; // it goes there when its first picture is here
    this.root.classList.toggle("loading", !this.stack.isCached(next));
    const request = await this.attempt(() => this.viewport.setImageIdIndex(next).then(() => undefined));
    if (request === this.newest) this.root.classList.remove("loading");
    this.stack.moveTo(this.wanted);
  }

  step(by: number): void {
    if (this.plane) this.viewport.scroll(by);
    else void this.goTo(this.wanted + by);
  }

  // ends at the latest when something newer is asked for: Cornerstone never tells of a picture that came too late
  private async attempt(act: () => Promise<void>): Promise<Asked> {
    const request = new Asked();
    this.newest?.giveUp();
    this.newest = request;
    try {
      await Promise.race([act(), request.givenUp]);
      if (request === this.newest) this.trouble("");
    } catch (error) {
      if (request === this.newest) this.trouble(words(error));
    }
    return request;
  }

  trouble(text: string): void {
    const panel = this.find(".cs-trouble");
    panel.hidden = !text;
    this.find(".cs-trouble p").textContent = text;
    if (text) this.root.classList.remove("loading");
  }

  private async again(): Promise<void> {
    const { stack, wanted, caption } = this;
    if (!stack) return;
    stack.retry();
    await this.hang(stack, wanted, caption);
  }

  // -- windows

  setPreset(preset: Preset): void {
    this.preset = preset;
    const own = this.stack?.frames[Math.max(0, this.shown)]?.window;
    const [center, width] = preset.center !== undefined && preset.width !== undefined ? [preset.center, preset.width] : (own ?? []);
    if (center === undefined || width === undefined) this.viewport.resetProperties?.();
    else this.viewport.setProperties({ voiRange: rangeOf(center, width) });
    this.viewport.render();
  }

  get window(): [number, number] | null {
    const range = this.viewport.getProperties?.().voiRange;
    return range ? [(range.lower + range.upper + 1) / 2, range.upper - range.lower + 1] : null;
  }

  reset(): void {
    this.viewport.resetCamera();
    this.viewport.setProperties({ invert: Boolean(this.stack?.frames[this.wanted]?.inverted) });
    this.viewport.render();
  }

  // -- what is written over the image

  private rendered(): void {
    const stack = this.stack;
    if (!stack) return;
    if (!this.plane) this.shown = this.viewport.getCurrentImageIdIndex();
    this.root.dataset["index"] = String(this.shown);
    this.root.dataset["series"] = stack.series.id;
    const image = this.plane ? undefined : stack.frames[this.shown]; // a reformatted plane is no image of its own
    this.root.dataset["uid"] = image?.uid ?? "";
    this.root.dataset["frame"] = image ? String(image.frame) : "";
    this.describe();
    paintMasks(this);
    this.onShown(this);
  }

  repaint(): void {
    if (this.shown >= 0 || this.plane) paintMasks(this);
  }

  describe(): void {
    const stack = this.stack;
    if (!stack) return;
    const index = Math.max(0, this.shown < 0 ? this.wanted : this.shown);
    const frame = stack.frames[index];
    const { series } = stack;
    this.write(".tl", [this.patient, this.caption].filter(Boolean).join("\n"));
    const name = `${series.modality}${series.number === null ? "" : ` #${series.number}`} ${series.description}`;
    this.write(".tr", [name, frame?.view ?? "", this.plane ? `${this.plane} reformat` : ""].filter(Boolean).join("\n"));
    this.write(".cs-slice", this.plane ? "" : `${index + 1} / ${stack.count}`);
    const z = frame?.origin && stack.normal(index) ? stack.depth(index, stack.normal(index)!) : null;
    this.write(".cs-place", z === null || this.plane ? "" : `${z.toFixed(1)} mm`);
    this.write(".cs-window", this.windowText());
    this.root.setAttribute("aria-label", `${this.caption} ${name}, image ${index + 1} of ${stack.count}`.trim());
    this.drawEdges(index);
    this.drawScale();
  }

  private windowText(): string {
    if (this.shown < 0 && !this.plane) return "";
    const window = this.window;
    if (this.preset?.name === "As acquired" || !window) return window ? `As acquired (C ${Math.round(window[0])} W ${Math.round(window[1])})` : "As acquired";
    return `C ${Math.round(window[0])} W ${Math.round(window[1])}`;
  }

  private drawEdges(index: number): void {
    const frame = this.stack?.frames[index];
    const sides = ["l", "r", "t", "b"] as const;
    if (this.shown < 0 && !this.plane) return;
    if (frame?.axes || this.plane) {
      const { viewUp, viewPlaneNormal } = this.viewport.getCamera();
      if (!viewUp || !viewPlaneNormal) return;
      const up = [...viewUp];
      const right = [
        viewUp[1] * viewPlaneNormal[2] - viewUp[2] * viewPlaneNormal[1],
        viewUp[2] * viewPlaneNormal[0] - viewUp[0] * viewPlaneNormal[2],
        viewUp[0] * viewPlaneNormal[1] - viewUp[1] * viewPlaneNormal[0],
      ];
      const flip = this.viewport.getViewPresentation?.() ?? {};
      const across = right.map((value) => value * (this.plane || !flip.flipHorizontal || this.isFlippedByCamera() ? 1 : -1));
      const negative = (direction: number[]): number[] => direction.map((value) => -value);
      const values = [negative(across), across, up, negative(up)];
      sides.forEach((side, at) => this.write(`.edge.${side}`, letters(values[at]!)));
    } else sides.forEach((side, at) => this.write(`.edge.${side}`, frame?.edges?.[at] ?? ""));
  }

  // with a GPU a flip turns the camera itself
  private isFlippedByCamera(): boolean {
    return this.root.dataset["gpu"] === "1";
  }

  private drawScale(): void {
    const bar = this.find(".cs-scale");
    const frame = this.stack?.frames[Math.max(0, this.shown)];
    if (!frame || (this.shown < 0 && !this.plane)) return;
    const perUnit = this.pixelsPerUnit();
    this.write(".cs-zoom", perUnit ? `${Math.round(this.viewport.getZoom() * 100)} %` : "");
    bar.hidden = !perUnit || frame.spacing_unit === "px";
    if (!perUnit) return;
    const most = this.element.clientWidth / 4;
    const length = [200, 100, 50, 20, 10, 5, 2, 1].find((one) => one * perUnit <= most) ?? 1;
    this.find<HTMLElement>(".cs-scale i").style.width = `${length * perUnit}px`;
    this.write(".cs-scale span", `${length} ${frame.spacing_unit}`);
  }

  // canvas pixels per mm (or per image pixel when nobody knows the spacing)
  pixelsPerUnit(): number {
    const { viewUp, focalPoint } = this.viewport.getCamera();
    if (!viewUp || !focalPoint) return 0;
    const from = this.viewport.worldToCanvas(focalPoint);
    const to = this.viewport.worldToCanvas(focalPoint.map((value, k) => value + viewUp[k]! * 10) as Types.Point3);
    return Math.hypot(to[0] - from[0], to[1] - from[1]) / 10;
  }

  write(selector: string, text: string): void {
    const element = this.find(selector);
    if (element.textContent !== text) element.textContent = text; // never read back as laid out: that costs a frame
  }

  private readonly progressed = (): void => {
    const stack = this.stack;
    if (!stack) return;
    const share = Math.round((stack.cached / stack.count) * 100);
    const bar = this.find(".cs-progress");
    bar.setAttribute("aria-valuenow", String(share));
    bar.hidden = share === 100;
    this.find<HTMLElement>(".cs-progress i").style.width = `${share}%`;
  };

  // where its frame lies along `along`, and how parallel it is
  depth(along: readonly number[]): number | null {
    const stack = this.stack;
    const normal = stack && !this.plane ? stack.normal(this.wanted) : null;
    if (!stack || !normal || Math.abs(dot(normal, along)) < 0.9) return null;
    return stack.depth(this.wanted, along as [number, number, number]);
  }
}

// PS3.3 C.11.2.1.2.1: LINEAR spreads the greys from center - 0.5 - (width - 1) / 2 to center - 0.5 + (width - 1) / 2
export function rangeOf(center: number, width: number): { lower: number; upper: number } {
  return { lower: center - 0.5 - (width - 1) / 2, upper: center - 0.5 + (width - 1) / 2 };
}

export function words(error: unknown): string {
  const inner = (error as { error?: unknown })?.error ?? error;
  return inner instanceof Error && inner.message ? inner.message : "This image cannot be shown.";
}
