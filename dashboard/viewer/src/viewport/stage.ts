// The viewer: panes in a grid, what hangs in them, and everything that moves them.
import { Enums, type RenderingEngine } from "@cornerstonejs/core";

import { Cine } from "./cine";
import { Legend } from "./legend";
import { Links } from "./links";
import { registerLoader } from "./loader";
import { look, type Segment } from "./masks";
import { Measuring } from "./measuring";
import { loadScene, type Preset, type Scene, type SeriesEntry, type ShowDetail } from "./model";
import { zoomBy } from "./moves";
import { Overlays } from "./overlays";
import { Pane, words } from "./pane";
import { Priors } from "./priors";
import { Reformats } from "./reformats";
import { ENGINE, Renderer } from "./renderer";
import { Stack } from "./stack";
import { Toolbar } from "./toolbar";
import { Hands, type Choice } from "./tools";
import { askText } from "./ask";

export const LAYOUTS: readonly [number, number][] = [[1, 1], [1, 2], [2, 2]];

export class Stage {
  panes: Pane[] = [];
  active!: Pane;
  scene!: Scene;
  readonly cine = new Cine();
  readonly renderer: Renderer;
  readonly hands: Hands;
  private readonly grid: HTMLElement;
  private readonly legend: Legend;
  private readonly toolbar: Toolbar;
  private readonly measuring: Measuring;
  readonly links: Links;
  private readonly reformats: Reformats;
  readonly overlays: Overlays;
  private readonly priors: Priors;
  private readonly observer: ResizeObserver;
  private hasShown = false;
  isStopped = false;
  private showing = 0;
  onFirst: () => void = () => undefined;
  onMoved: (stage: Stage) => void = () => undefined;

  constructor(readonly root: HTMLElement) {
    this.renderer = new Renderer();
    registerLoader();
    this.hands = new Hands(() => askText(root, "What does the arrow point at?"));
    this.grid = element("div", "cs-grid");
    const legend = element("div", "row labels cs-legend");
    legend.setAttribute("role", "group");
    legend.setAttribute("aria-label", "AI overlays");
    this.legend = new Legend(legend, () => this.repaint(), (segment) => this.goToSegment(segment));
    this.measuring = new Measuring(root.dataset["study"] ?? "", root.dataset["csrf"] ?? "", root.dataset["keeps"] === "1");
    this.toolbar = new Toolbar(this);
    this.links = new Links(this);
    this.overlays = new Overlays(this);
    this.priors = new Priors(this);
    this.reformats = new Reformats(this);
    this.measuring.onTrouble = (text) => this.toolbar.say(text);
    const area = element("div", "cs-area");
    area.append(this.toolbar.top, this.grid, this.toolbar.bottom, legend);
    this.area = area;
    this.observer = new ResizeObserver(() => this.resized());
    this.observer.observe(this.grid);
  }

  readonly area: HTMLElement;

  get engine(): RenderingEngine {
    return this.renderer.engine;
  }

  async start(): Promise<void> {
    const first = this.root.dataset["series"] ?? "";
    this.scene = await loadScene(this.root.dataset["study"] ?? "", first);
    if (!this.scene.dicomweb || !this.scene.series.length) throw new Error("There is nothing that Cornerstone could show");
    const { rows, columns, cells, linked } = this.scene.hanging;
    this.root.querySelector("figure")!.replaceWith(this.area);
    this.root.querySelector("form.viewer-tools")?.remove();
    this.root.classList.add("live");
    this.lay(rows, columns);
    this.links.isOn = linked;
    void this.restoreMeasures().catch((error: unknown) => this.say(`What was measured could not be loaded: ${words(error)}`));
    // the series that is read first gets its image first
    const order = cells.map((_, at) => at).sort((a, b) => Number(cells[b] === first) - Number(cells[a] === first));
    this.activate(this.panes[Math.max(0, cells.indexOf(first))]!);
    for (const at of order) await this.hangSeries(this.panes[at]!, cells[at]!, cells[at] === first ? Number(this.root.dataset["index"]) : undefined);
    this.links.follow(this.active); // those that were hung after it, at their middle
    this.toolbar.refresh();
  }

  // an image does not wait for what was measured on it, nor for its masks
  private async restoreMeasures(): Promise<void> {
    await this.measuring.load();
    if (this.isStopped) return;
    for (const pane of this.panes) if (pane.stack) this.measuring.restore(pane.stack, pane.element);
    this.engine.render();
  }

  // -- panes

  lay(rows: number, columns: number): void {
    this.reformats.leave();
    this.cine.stop();
    const hung = this.panes.filter((pane) => !pane.plane).map((pane) => ({ stack: pane.stack, index: pane.wanted, caption: pane.caption, offset: pane.linkOffset }));
    for (const pane of this.panes) this.close(pane);
    this.renderer.forStacks();
    this.arrange(`repeat(${columns}, minmax(0, 1fr))`, `repeat(${rows}, minmax(0, 1fr))`);
    this.panes = Array.from({ length: rows * columns }, (_, at) => this.open(`pane-${at}`, Enums.ViewportType.STACK));
    this.activate(this.panes[0]!);
    hung.slice(0, this.panes.length).forEach((one, at) => {
      const pane = this.panes[at]!;
      pane.linkOffset = one.offset;
      if (one.stack) void this.put(pane, one.stack, one.index, one.caption);
    });
    this.layout = [rows, columns];
  }

  layout: [number, number] = [1, 1];

  // the first pane may span several rows
  arrange(columns: string, rows: string, firstRow = ""): void {
    this.grid.style.gridTemplateColumns = columns;
    this.grid.style.gridTemplateRows = rows;
    if (firstRow && this.panes[0]) this.panes[0].root.style.gridRow = firstRow;
  }

  open(id: string, type: Enums.ViewportType, orientation?: Enums.OrientationAxis): Pane {
    const pane = new Pane(id, this.engine, this.root.dataset["patient"] ?? "");
    pane.root.dataset["gpu"] = this.renderer.isGpu ? "1" : "0";
    this.grid.append(pane.root);
    pane.enable(type, orientation);
    this.hands.group.addViewport(id, ENGINE);
    pane.onShown = () => this.shown(pane);
    pane.root.addEventListener("pointerdown", () => this.activate(pane), true);
    pane.root.addEventListener("focus", () => this.activate(pane));
    pane.root.addEventListener("wheel", (event) => this.wheel(pane, event), { passive: false, capture: true });
    pane.root.addEventListener("dblclick", () => pane.reset());
    pane.root.addEventListener("dragover", (event) => event.preventDefault());
    pane.root.addEventListener("drop", (event) => {
      event.preventDefault();
      const seriesId = event.dataTransfer?.getData("text/x-firstread-series");
      if (seriesId) void this.hangSeries(pane, seriesId);
    });
    return pane;
  }

  close(pane: Pane): void {
    pane.stack?.stop();
    this.hands.group.removeViewports(ENGINE, pane.id);
    this.engine.disableElement(pane.id);
    pane.root.remove();
  }

  activate(pane: Pane): void {
    if (this.active === pane) return;
    this.active = pane;
    for (const one of this.panes) one.root.classList.toggle("active", one === pane);
    this.changed();
  }

  // what depends on which pane is active
  changed(): void {
    const series = this.active.stack?.series.id;
    for (const link of this.root.querySelectorAll<HTMLElement>(".rail a")) {
      if (link.dataset["series"] === series) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    this.legend.show(this.active.masks);
    this.toolbar.refresh();
  }

  async hangSeries(pane: Pane, seriesId: string, index?: number, scene = this.scene, caption = ""): Promise<void> {
    const entry = scene.series.find((one) => one.id === seriesId);
    if (!entry) return pane.trouble("This series holds no images that can be shown.");
    try {
      const stack = await Stack.load(scene.study_id, scene.study_uid, entry);
      await this.put(pane, stack, index ?? Math.floor(stack.count / 2), caption);
    } catch (error) {
      pane.trouble(words(error));
    }
  }

  async put(pane: Pane, stack: Stack, index: number, caption = ""): Promise<void> {
    pane.masks = this.overlays.of(stack.series.id);
    await pane.hang(stack, index, caption);
    if (pane === this.active) this.changed();
    this.measuring.restore(stack, pane.element);
    void this.overlays.load(stack);
  }

  repaint(): void {
    for (const pane of this.panes) pane.repaint();
  }

  private shown(pane: Pane): void {
    if (!this.hasShown) {
      this.hasShown = true;
      this.onFirst();
    }
    if (pane === this.active) {
      this.links.follow(pane);
      this.toolbar.position();
      this.onMoved(this);
    }
  }

  private wheel(pane: Pane, event: WheelEvent): void {
    event.preventDefault();
    event.stopPropagation();
    this.activate(pane);
    if (event.ctrlKey) zoomBy(pane, event.deltaY < 0 ? 1.15 : 1 / 1.15);
    else pane.step(event.deltaY > 0 ? 1 : -1);
  }

  // Cornerstone passes over a resize while a picture is pending: asked again until every canvas fits its pane
  resized(tries = 10): void {
    const isZoomed = this.panes.some((pane) => pane.shown >= 0 && Math.abs(pane.viewport.getZoom() - 1) > 0.01);
    this.engine.resize(true, isZoomed);
    this.repaint();
    requestAnimationFrame(() => {
      if (tries > 0 && this.root.isConnected && this.panes.some((pane) => !pane.fits())) this.resized(tries - 1);
    });
  }

  // -- what keys, buttons and other rooms ask for (desk/keys.ts calls the first five)

  step(by: number): void {
    this.active.step(by);
  }

  goTo(index: number): void {
    void this.active.goTo(index);
  }

  preset(position: number): void {
    const preset = this.presets[position];
    if (!preset) return;
    for (const pane of this.panes) if (pane === this.active || (pane.plane && pane.stack === this.active.stack)) pane.setPreset(preset);
    this.toolbar.refresh();
  }

  get presets(): Preset[] {
    return this.active.stack?.series.presets ?? [{ name: "As acquired" }];
  }

  toggleOverlays(): void {
    look.hidden = !look.hidden;
    this.legend.show(this.active.masks);
    this.repaint();
  }

  resetView(): void {
    this.active.reset();
  }

  choose(choice: Choice): void {
    this.hands.choose(choice);
    this.toolbar.refresh();
  }

  toggleCine(): void {
    this.cine.toggle(this.active);
    this.toolbar.refresh();
  }

  nextLayout(): void {
    const at = LAYOUTS.findIndex(([rows, columns]) => rows === this.layout[0] && columns === this.layout[1]);
    const [rows, columns] = LAYOUTS[(at + 1) % LAYOUTS.length]!;
    this.lay(rows, columns);
    this.fill();
  }

  // empty panes get the next series of the rail
  fill(): void {
    const free = this.scene.series.filter((one) => !this.panes.some((pane) => pane.stack?.series.id === one.id));
    for (const pane of this.panes) {
      const next = pane.stack ? undefined : free.shift();
      if (next) void this.hangSeries(pane, next.id);
    }
    this.toolbar.refresh();
  }

  async toggleReformat(): Promise<void> {
    await this.reformats.toggle();
    this.toolbar.refresh();
  }

  get isReformatted(): boolean {
    return this.reformats.isOn;
  }

  toggleLink(): void {
    this.links.toggle();
    this.toolbar.refresh();
  }

  get isLinked(): boolean {
    return this.links.isOn;
  }

  removeSelected(): boolean {
    const removed = this.measuring.removeSelected();
    if (removed) this.engine.render();
    return removed;
  }

  say(text: string): void {
    this.toolbar.say(text);
  }

  async togglePrior(studyId?: string): Promise<void> {
    await this.priors.toggle(studyId);
    this.toolbar.refresh();
  }

  // a finding, a sentence, the other window: go there and mark it
  async show(detail: ShowDetail): Promise<void> {
    const turn = ++this.showing;
    this.cine.stop();
    if (this.reformats.isOn) await this.reformats.toggle();
    const series = this.seriesFor(detail);
    if (!series) return this.toolbar.say("Its images are not here.");
    let pane = this.panes.find((one) => one.stack?.series.id === series.id);
    if (!pane) {
      pane = this.active;
      await this.hangSeries(pane, series.id, detail.index);
    }
    this.activate(pane);
    const stack = pane.stack;
    if (!stack) return;
    const masks = this.overlays.of(series.id);
    const label = detail.segmentLabel ?? detail.trackingUid ?? "";
    if (label) await masks?.loaded.catch(() => undefined);
    if (turn !== this.showing) return; // something else was asked for meanwhile
    if (masks) pane.masks = masks;
    const segment = label && masks ? masks.show(label) : undefined;
    pane.highlighted = segment?.key ?? "";
    pane.box = detail.box && detail.sopInstanceUid ? { uid: detail.sopInstanceUid, corners: detail.box } : null;
    if (segment) look.hidden = false;
    const index = detail.index ?? (detail.sopInstanceUid ? stack.indexOf(detail.sopInstanceUid, detail.frameNumber) : -1);
    const target = index >= 0 ? index : segment ? masks!.widest(segment) : null;
    if (target !== null && target !== undefined) await pane.goTo(target);
    this.legend.show(pane.masks);
    pane.repaint();
  }

  private seriesFor(detail: ShowDetail): SeriesEntry | undefined {
    const { series } = this.scene;
    const named = series.find((one) => one.id === detail.seriesId || one.uid === detail.seriesInstanceUid);
    if (named) return named;
    const holding = this.panes.find((pane) => detail.sopInstanceUid && (pane.stack?.indexOf(detail.sopInstanceUid) ?? -1) >= 0);
    return holding?.stack?.series ?? this.active.stack?.series;
  }

  private goToSegment(segment: Segment): void {
    const stack = this.active.stack;
    if (stack) void this.show({ seriesId: stack.series.id, segmentLabel: segment.key });
  }

  stop(): void {
    this.isStopped = true;
    this.cine.stop();
    this.observer.disconnect();
    for (const pane of this.panes) pane.stack?.stop();
    this.engine.destroy();
  }
}

export function element(tag: string, name: string): HTMLElement {
  const made = document.createElement(tag);
  made.className = name;
  return made;
}
