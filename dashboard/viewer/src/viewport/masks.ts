// The segments behind the draft: what they are called, which are shown, and their pixels frame by frame.
import { getJson } from "./model";
import type { Stack } from "./stack";

export interface Segment {
  key: string;
  map: number;
  value: number;
  name: string;
  colour: number;
  status: "unverified" | "accepted" | "rejected" | "received";
  rgb?: [number, number, number] | null; // what the maker of a received segmentation recommends
  group?: string; // the received segmentation it is of
  found: boolean;
  shown: boolean;
}

interface Runs {
  map: number;
  rows: number;
  columns: number;
  runs: number[]; // gap since the end of the run before, length, value
}

// the same ten, in the same order, as dashboard/overlays.py
export const COLOURS: readonly [number, number, number][] = [
  [255, 176, 59], [86, 180, 233], [240, 98, 146], [120, 210, 120], [178, 132, 250],
  [255, 241, 118], [77, 208, 225], [255, 112, 67], [174, 213, 129], [206, 147, 216],
];

export interface Refused {
  name: string;
  why: string;
}

export const look = { opacity: 0.38, outline: true, fill: true, hidden: false };

export class Masks {
  segments: Segment[] = [];
  refused: Refused[] = [];
  private frames: Record<string, Runs[]> = {};
  private readonly painted = new Map<string, HTMLCanvasElement>();
  private readonly volumes = new Map<number, Uint8Array>();

  private turn = 0;
  readonly loaded: Promise<void>;

  constructor(readonly stack: Stack) {
    this.loaded = this.load();
  }

  private async load(): Promise<void> {
    const made = await getJson<{ segments: Segment[]; frames: Record<string, Runs[]>; refused: Refused[] }>(this.url(""));
    this.segments = made.segments;
    this.frames = made.frames;
    this.refused = made.refused;
  }

  // what was decided of the findings since; a rejected finding's segment is not shown any more
  // The answer that is still under way may be older than the decision: it is waited for, then asked again.
  async refresh(): Promise<void> {
    const turn = ++this.turn;
    await this.loaded;
    const { segments } = await getJson<{ segments: Segment[] }>(this.url("?only=segments"));
    if (turn !== this.turn) return;
    const before = new Map(this.segments.map((one) => [one.key, one.shown]));
    this.segments = segments.map((one) => ({ ...one, shown: one.status !== "rejected" && (before.get(one.key) ?? one.shown) }));
  }

  private url(query: string): string {
    return `/studies/${this.stack.studyId}/masks/${this.stack.series.id}${query}`;
  }

  get visible(): Segment[] {
    return look.hidden ? [] : this.segments.filter((one) => one.shown && one.status !== "rejected");
  }

  find(label: string): Segment | undefined {
    const wanted = label.trim().toLowerCase();
    // a finding means a segment of its own draft, never one of somebody else that has the same name
    const drafted = this.segments.filter((one) => one.status !== "received");
    return this.segments.find((one) => one.key === label) ?? drafted.find((one) => one.name.toLowerCase() === wanted || String(one.value) === wanted);
  }

  show(label: string): Segment | undefined {
    const found = this.find(label);
    if (found && found.status !== "rejected") found.shown = true;
    return found;
  }

  // the frame on which a segment is widest
  widest(segment: Segment): number | null {
    let best: number | null = null;
    let most = 0;
    for (const [index, planes] of Object.entries(this.frames)) {
      const pixels = planes.filter((one) => one.map === segment.map).reduce((sum, one) => sum + area(one, segment.value), 0);
      if (pixels > most) [best, most] = [Number(index), pixels];
    }
    return best;
  }

  has(index: number): boolean {
    return String(index) in this.frames;
  }

  // one canvas in pixels of the frame, kept until what is shown changes
  picture(index: number, highlighted: string): HTMLCanvasElement | null {
    const planes = this.frames[String(index)];
    const shown = this.visible;
    if (!planes || !shown.length) return null;
    const key = `${index}|${look.opacity}|${look.fill}|${look.outline}|${highlighted}|${shown.map((one) => one.key).join()}`;
    let made = this.painted.get(key);
    if (!made) {
      made = paint(planes, shown, highlighted);
      this.painted.set(key, made);
      if (this.painted.size > 64) this.painted.delete(this.painted.keys().next().value!);
    }
    return made;
  }

  // all frames of one label map in the order of the stack, for oblique planes
  volume(map: number): { labels: Uint8Array; rows: number; columns: number } | null {
    const first = Object.values(this.frames).flat().find((one) => one.map === map);
    if (!first) return null;
    const { rows, columns } = first;
    let labels = this.volumes.get(map);
    if (!labels) {
      labels = new Uint8Array(rows * columns * this.stack.count);
      for (const [index, planes] of Object.entries(this.frames)) {
        for (const plane of planes) if (plane.map === map && plane.rows === rows && plane.columns === columns) expand(plane, labels, Number(index) * rows * columns);
      }
      this.volumes.set(map, labels);
    }
    return { labels, rows, columns };
  }
}

export function colourOf(segment: Segment): readonly [number, number, number] {
  return segment.rgb ?? COLOURS[segment.colour]!;
}

function area(plane: Runs, value: number): number {
  let sum = 0;
  for (let at = 0; at < plane.runs.length; at += 3) if (plane.runs[at + 2] === value) sum += plane.runs[at + 1]!;
  return sum;
}

function expand(plane: Runs, into: Uint8Array, offset: number): void {
  let at = offset;
  for (let run = 0; run < plane.runs.length; run += 3) {
    at += plane.runs[run]!;
    const length = plane.runs[run + 1]!;
    into.fill(plane.runs[run + 2]!, at, at + length);
    at += length;
  }
}

function paint(planes: Runs[], shown: Segment[], highlighted: string): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [planes[0]!.columns, planes[0]!.rows];
  const context = canvas.getContext("2d")!;
  const picture = context.createImageData(canvas.width, canvas.height);
  for (const plane of planes) {
    if (plane.columns !== canvas.width || plane.rows !== canvas.height) continue;
    const labels = new Uint8Array(plane.rows * plane.columns);
    expand(plane, labels, 0);
    for (const segment of shown) if (segment.map === plane.map) tint(picture, labels, segment, segment.key === highlighted);
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}

function tint(picture: ImageData, labels: Uint8Array, segment: Segment, isHighlighted: boolean): void {
  const [width, height] = [picture.width, picture.height];
  const [red, green, blue] = colourOf(segment);
  const inside = look.fill ? Math.round(255 * look.opacity * (isHighlighted ? 1.4 : 1)) : 0;
  for (let at = 0; at < labels.length; at += 1) {
    if (labels[at] !== segment.value) continue;
    const column = at % width;
    const isEdge =
      column === 0 || column === width - 1 || at < width || at >= width * (height - 1) ||
      labels[at - 1] !== segment.value || labels[at + 1] !== segment.value || labels[at - width] !== segment.value || labels[at + width] !== segment.value;
    const alpha = isEdge && (look.outline || isHighlighted) ? 255 : Math.min(255, inside);
    if (alpha) picture.data.set([red, green, blue, alpha], at * 4);
  }
}
