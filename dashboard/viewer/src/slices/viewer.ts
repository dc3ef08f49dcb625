// Scrolls, windows, zooms and toggles overlays on the server's rendered slices.
import htmx from "htmx.org";

import { SliceCache } from "./cache";

interface Edges {
  readonly left: string;
  readonly right: string;
  readonly top: string;
  readonly bottom: string;
}

export class Viewer {
  private index: number;
  private window: string;
  private zoom = 1;
  private panX = 0;
  private panY = 0;
  private overlaysHidden = false;
  private shownUrl = "";
  private readonly count: number;
  private readonly base: string;
  private readonly edges: readonly Edges[];
  private readonly image: HTMLImageElement;
  private readonly viewport: HTMLElement;
  private readonly slider: HTMLInputElement | null;
  private readonly cache = new SliceCache();

  constructor(readonly root: HTMLElement) {
    this.base = root.dataset["base"] ?? "";
    this.count = Number(root.dataset["count"] ?? "0");
    this.index = Number(root.dataset["index"] ?? "0");
    this.window = root.dataset["window"] ?? "";
    this.edges = JSON.parse(root.dataset["edges"] ?? "[]") as Edges[];
    this.image = root.querySelector<HTMLImageElement>("#slice")!;
    this.viewport = root.querySelector<HTMLElement>(".viewport")!;
    this.slider = root.querySelector<HTMLInputElement>("input[type=range]");
    this.listen();
    void this.show();
  }

  get series(): string {
    return this.root.dataset["series"] ?? "";
  }

  private listen(): void {
    this.viewport.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    this.viewport.addEventListener("pointerdown", (event) => this.onPointer(event));
    this.viewport.addEventListener("contextmenu", (event) => event.preventDefault());
    this.viewport.addEventListener("dblclick", () => this.resetView());
    this.slider?.addEventListener("input", () => this.goTo(Number(this.slider!.value) - 1));
    for (const box of this.boxes()) box.addEventListener("change", () => void this.show());
    for (const link of this.root.querySelectorAll<HTMLAnchorElement>("a.preset")) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        this.setWindow(link.dataset["window"] ?? "");
      });
    }
    for (const link of this.root.querySelectorAll<HTMLAnchorElement>("a[data-step]")) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        this.step(Number(link.dataset["step"]));
      });
    }
    this.root.querySelector("form")?.addEventListener("submit", (event) => event.preventDefault());
  }

  private boxes(): HTMLInputElement[] {
    return [...this.root.querySelectorAll<HTMLInputElement>("input[name=overlay]")];
  }

  private url(index: number): string {
    const query = new URLSearchParams();
    if (this.window) query.set("window", this.window);
    if (!this.overlaysHidden) {
      for (const box of this.boxes()) if (box.checked) query.append("overlay", box.value);
    }
    const text = query.toString();
    return `${this.base}${index}.png${text ? `?${text}` : ""}`;
  }

  step(by: number): void {
    this.goTo(this.index + by);
  }

  goTo(index: number): void {
    const next = Math.max(0, Math.min(this.count - 1, index));
    if (next === this.index) return;
    this.index = next;
    void this.show();
  }

  setWindow(window: string): void {
    this.window = window;
    this.root.dataset["window"] = window;
    void this.show();
  }

  preset(position: number): void {
    const link = this.root.querySelectorAll<HTMLAnchorElement>("a.preset")[position];
    if (link) this.setWindow(link.dataset["window"] ?? "");
  }

  toggleOverlays(): void {
    this.overlaysHidden = !this.overlaysHidden;
    void this.show();
  }

  showLabel(value: string): void {
    for (const box of this.boxes()) if (box.value === value) box.checked = true;
    this.overlaysHidden = false;
    void this.show();
  }

  resetView(): void {
    this.zoom = 1;
    this.panX = this.panY = 0;
    this.place();
  }

  private async show(): Promise<void> {
    this.describe();
    const url = this.url(this.index);
    this.shownUrl = url;
    this.viewport.classList.add("loading");
    const source = await this.cache.get(url);
    if (this.shownUrl !== url) return; // the reader has scrolled on
    if (source !== null) this.image.src = source;
    this.viewport.classList.remove("loading");
    this.viewport.dataset["failed"] = source === null ? "1" : "";
    this.root.dataset["index"] = String(this.index);
    for (const ahead of [1, -1, 2, -2, 3]) {
      const near = this.index + ahead;
      if (near >= 0 && near < this.count) this.cache.preload(this.url(near));
    }
  }

  private describe(): void {
    const set = (selector: string, text: string): void => {
      const element = this.root.querySelector(selector);
      if (element) element.textContent = text;
    };
    set("[data-show=slice]", `${this.index + 1} / ${this.count}`);
    const [center, width] = this.window.split(",");
    set("[data-show=window]", center && width ? `C ${Math.round(Number(center))}  W ${Math.round(Number(width))}` : "As acquired");
    set("[data-show=overlay]", this.overlaysHidden ? "Overlays hidden" : "");
    if (this.slider) this.slider.value = String(this.index + 1);
    this.image.alt = `Slice ${this.index + 1} of ${this.count}`;
    const edge = this.edges[this.index] ?? this.edges[0];
    if (edge) for (const side of ["left", "right", "top", "bottom"] as const) set(`[data-edge=${side}]`, edge[side]);
    for (const link of this.root.querySelectorAll<HTMLAnchorElement>("a.preset")) {
      if ((link.dataset["window"] ?? "") === this.window) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  private place(): void {
    this.image.style.transform = `translate(${this.panX}px, ${this.panY}px) scale(${this.zoom})`;
  }

  private onWheel(event: WheelEvent): void {
    event.preventDefault();
    if (event.ctrlKey) {
      this.zoom = Math.max(0.5, Math.min(8, this.zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15)));
      this.place();
    } else {
      this.step(event.deltaY > 0 ? 1 : -1);
    }
  }

  // left drag scrolls, right drag windows, middle or shift drag pans: the habits of a PACS
  private onPointer(down: PointerEvent): void {
    const mode = down.button === 2 ? "window" : down.button === 1 || down.shiftKey ? "pan" : "scroll";
    const [center, width] = (this.window || (this.root.dataset["ownWindow"] ?? "")).split(",").map(Number);
    const start = { index: this.index, panX: this.panX, panY: this.panY };
    const pixelsPerSlice = Math.max(3, this.viewport.clientHeight / Math.max(40, this.count));
    const move = (event: PointerEvent): void => {
      const dx = event.clientX - down.clientX;
      const dy = event.clientY - down.clientY;
      if (mode === "scroll") this.goTo(start.index + Math.round(dy / pixelsPerSlice));
      else if (mode === "pan") {
        this.panX = start.panX + dx;
        this.panY = start.panY + dy;
        this.place();
      } else if (center !== undefined && width !== undefined && width > 0) {
        const gain = width / 300;
        this.setWindow(`${Math.round(center + dy * gain)},${Math.max(1, Math.round(width + dx * gain))}`);
      }
    };
    const up = (): void => {
      this.viewport.removeEventListener("pointermove", move);
      this.viewport.removeEventListener("pointerup", up);
      this.viewport.removeEventListener("pointercancel", up);
    };
    down.preventDefault();
    this.viewport.setPointerCapture(down.pointerId);
    this.viewport.addEventListener("pointermove", move);
    this.viewport.addEventListener("pointerup", up);
    this.viewport.addEventListener("pointercancel", up);
    this.viewport.focus({ preventScroll: true });
  }
}

// what keys move: the server's slices, or the stage that has taken their place
export interface Moved {
  readonly root: HTMLElement;
  step(by: number): void;
  goTo(index: number): void;
  preset(position: number): void;
  toggleOverlays(): void;
  resetView(): void;
}

interface Shown extends Moved {
  show(detail: { seriesId: string; index: number; segmentLabel?: string }): Promise<void>;
}

let current: Viewer | null = null;
let stage: Shown | null = null;

export function currentViewer(): Moved | null {
  return stage?.root.isConnected ? stage : current;
}

export function startViewer(root: HTMLElement): void {
  if (root.dataset["stage"] === "wanted" || root.dataset["stage"] === "starting") return;
  if (root.querySelector("#slice") && current?.root !== root) current = new Viewer(root);
}

export function leaveToStage(root: HTMLElement, taken: Shown): void {
  stage = taken;
  if (current?.root === root) current = null;
}

// A link that carries data-jump moves the viewer instead of loading the page anew.
document.addEventListener("click", (event) => {
  const link = (event.target as Element).closest<HTMLAnchorElement>("a[data-jump]");
  if (!link || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  for (const other of document.querySelectorAll(".finding.current")) other.classList.remove("current");
  link.closest(".finding")?.classList.add("current");
  const { series, index, label } = link.dataset;
  if (stage?.root.isConnected) {
    const detail = { seriesId: series ?? "", index: Number(index), ...(label ? { segmentLabel: label } : {}) };
    document.dispatchEvent(new CustomEvent("firstread:show", { detail }));
  } else if (current && series === current.series) {
    current.goTo(Number(index));
    if (label) current.showLabel(label);
  } else {
    void htmx.ajax("get", link.dataset["jump"]!, { target: "#viewer", swap: "outerHTML" });
  }
});
