// Axial, sagittal and coronal planes of one volume (MPR), by Cornerstone's volume viewports.
import { Enums, setVolumesForViewports, volumeLoader, type Types } from "@cornerstonejs/core";

import { rangeOf, words, type Pane, type Plane } from "./pane";
import type { Stage } from "./stage";
import { cross, dot, type Stack } from "./stack";

const PLANES: readonly Plane[] = ["axial", "sagittal", "coronal"];

export class Reformats {
  isOn = false;
  private before: { layout: [number, number]; stack: Stack; index: number } | null = null;

  constructor(private readonly stage: Stage) {}

  async toggle(): Promise<void> {
    const { stage } = this;
    if (this.isOn) {
      const { before } = this;
      stage.lay(...(before?.layout ?? [1, 1]));
      if (before && stage.panes[0]) await stage.put(stage.panes[0], before.stack, before.index);
      return;
    }
    const { stack, wanted } = stage.active;
    const reason = stack ? unfit(stack, stage.renderer.hasWebGl) : "There are no images.";
    if (reason || !stack) return stage.say(`No reformats: ${reason}`);
    const { layout } = stage;
    stage.say("Loading the whole series for the reformats…");
    try {
      await stack.whole();
      const volumeId = `firstread-volume:${stack.series.id}`;
      const volume = (await volumeLoader.createAndCacheVolume(volumeId, { imageIds: stack.imageIds })) as Types.IStreamingImageVolume;
      stage.lay(1, 1);
      this.isOn = true;
      this.before = { layout, stack, index: wanted };
      volume.load();
      await this.open(stack, volumeId, wanted);
      stage.say("");
    } catch (error) {
      stage.say(`No reformats: ${words(error)}`);
    }
  }

  // called by the stage before it lays other panes
  leave(): void {
    this.isOn = false;
  }

  private async open(stack: Stack, volumeId: string, index: number): Promise<void> {
    const { stage } = this;
    for (const pane of stage.panes) stage.close(pane);
    stage.renderer.forPlanes();
    stage.panes = PLANES.map((plane) => {
      const pane = stage.open(`plane-${plane}`, Enums.ViewportType.ORTHOGRAPHIC, Enums.OrientationAxis[plane.toUpperCase() as "AXIAL"]);
      [pane.stack, pane.plane] = [stack, plane];
      return pane;
    });
    stage.arrange("3fr 2fr", "1fr 1fr", "1 / 3");
    await setVolumesForViewports(stage.engine, [{ volumeId }], stage.panes.map((pane) => pane.id));
    const window = stack.frames[index]?.window;
    for (const pane of stage.panes) {
      if (window) pane.viewport.setProperties({ voiRange: rangeOf(...window) });
      pane.shown = 0;
    }
    stage.engine.resize(true, false); // the panes have other sizes since they were opened: each plane fits its own
    stage.resized();
    stage.overlays.adopt(stack);
    await stage.overlays.load(stack);
    stage.engine.renderViewports(stage.panes.map((pane) => pane.id));
    stage.activate(stage.panes[0] as Pane);
  }
}

// parallel frames, one matrix, even gaps: else a reformat would show a body that is not there
function unfit(stack: Stack, hasWebGl: boolean): string {
  if (!hasWebGl) return "this browser has no WebGL.";
  if (stack.count < 5) return "the series has fewer than five images.";
  const [first] = stack.frames;
  const normal = stack.normal(0);
  if (!first || !normal) return "the images have no position in the patient.";
  const depths: number[] = [];
  for (let index = 0; index < stack.count; index += 1) {
    const frame = stack.frames[index]!;
    const own = stack.normal(index);
    const at = stack.depth(index, normal);
    if (!own || at === null || dot(own, normal) < 0.9999) return "the images are not parallel.";
    if (frame.rows !== first.rows || frame.columns !== first.columns || frame.picture) return "the images differ in size or kind.";
    depths.push(at);
  }
  const gaps = depths.slice(1).map((at, k) => at - depths[k]!);
  const usual = (depths[depths.length - 1]! - depths[0]!) / gaps.length;
  if (gaps.some((gap) => Math.abs(gap - usual) > 0.05 * Math.abs(usual) + 0.01)) return "the distances between the images differ.";
  if (Math.abs(usual) < 1e-3) return "the images lie on one another.";
  const last = stack.frames[stack.count - 1]!;
  const along = cross(first.axes!.slice(0, 3), first.axes!.slice(3, 6));
  const shift = [0, 1, 2].map((k) => last.origin![k]! - first.origin![k]! - along[k]! * usual * gaps.length);
  return Math.hypot(...shift) > 2 ? "the gantry was tilted." : "";
}
