// One series in the browser: its frames, their geometry, and fetching their pixels in the order they will be needed.
import { cache, imageLoader } from "@cornerstonejs/core";

import { loadFrames, type Frame, type SeriesEntry } from "./model";

export type Point = [number, number, number];
export type Pixel = [number, number];

const AT_ONCE = 5; // requests for frames that nobody looks at yet; a browser opens six to one server, one stays free
const stacks = new Map<string, Stack>();

export class Stack {
  readonly imageIds: string[];
  private position = 0;
  private direction = 1;
  private running = 0;
  private readonly failed = new Set<number>();
  private readonly done = new Set<number>();
  private wanted = false;
  readonly listeners = new Set<() => void>();

  constructor(
    readonly studyId: string,
    readonly studyUid: string,
    readonly series: SeriesEntry,
    readonly frames: Frame[],
  ) {
    this.imageIds = frames.map((_, index) => `firstread:${series.id}/${index}`);
    stacks.set(series.id, this);
  }

  static async load(studyId: string, studyUid: string, series: SeriesEntry): Promise<Stack> {
    return stacks.get(series.id) ?? new Stack(studyId, studyUid, series, await loadFrames(studyId, series.id));
  }

  get count(): number {
    return this.frames.length;
  }

  get cached(): number {
    return this.done.size;
  }

  isCached(index: number): boolean {
    return this.done.has(index);
  }

  // called whenever a frame is shown: what lies ahead is fetched first, then what lies behind
  moveTo(index: number): void {
    if (index !== this.position) this.direction = index > this.position ? 1 : -1;
    this.position = index;
    this.wanted = true;
    this.pump();
  }

  stop(): void {
    this.wanted = false;
  }

  retry(): void {
    this.failed.clear();
    this.pump();
  }

  arrived(index: number): void {
    this.done.add(index);
    for (const listener of this.listeners) listener();
  }

  private pump(): void {
    while (this.wanted && this.running < AT_ONCE) {
      const next = this.nearestMissing();
      if (next === null) return;
      this.running += 1;
      this.asked.add(next);
      imageLoader
        .loadAndCacheImage(this.imageIds[next]!)
        .then(() => this.done.add(next))
        .catch(() => this.failed.add(next))
        .finally(() => {
          this.running -= 1;
          this.asked.delete(next);
          for (const listener of this.listeners) listener();
          this.pump();
        });
    }
  }

  private readonly asked = new Set<number>();

  private nearestMissing(): number | null {
    const free = (index: number): boolean =>
      index >= 0 && index < this.count && !this.done.has(index) && !this.asked.has(index) && !this.failed.has(index);
    // two steps ahead for one behind
    for (let step = 0; step < this.count * 2; step += 1) {
      for (const index of [this.position + this.direction * 2 * step, this.position + this.direction * (2 * step + 1)]) if (free(index)) return index;
      if (free(this.position - this.direction * step)) return this.position - this.direction * step;
    }
    return null;
  }

  // all frames, for a volume
  async whole(): Promise<void> {
    for (let index = 0; index < this.count; index += AT_ONCE) {
      const ids = this.imageIds.slice(index, index + AT_ONCE);
      await Promise.all(ids.map((id) => imageLoader.loadAndCacheImage(id)));
    }
  }

  indexOf(uid: string, frame?: number): number {
    return this.frames.findIndex((one) => one.uid === uid && (frame === undefined || one.frame === frame));
  }

  // -- geometry: [0, 0] is the centre of the first pixel, as Image Position (Patient) is

  toWorld(index: number, [column, row]: Pixel): Point {
    const { origin, axes, spacing } = place(this.frames[index]!);
    return [0, 1, 2].map((k) => origin[k]! + axes[k]! * spacing[1] * column + axes[k + 3]! * spacing[0] * row) as Point;
  }

  toPixel(index: number, point: readonly number[]): Pixel {
    const { origin, axes, spacing } = place(this.frames[index]!);
    const from = [0, 1, 2].map((k) => point[k]! - origin[k]!);
    const along = (at: number): number => from[0]! * axes[at]! + from[1]! * axes[at + 1]! + from[2]! * axes[at + 2]!;
    return [along(0) / spacing[1], along(3) / spacing[0]];
  }

  normal(index: number): Point | null {
    const axes = this.frames[index]?.axes;
    return axes ? cross(axes.slice(0, 3), axes.slice(3, 6)) : null;
  }

  // where along its own normal a frame lies, mm
  depth(index: number, along: Point): number | null {
    const origin = this.frames[index]?.origin;
    return origin ? origin[0]! * along[0] + origin[1]! * along[1] + origin[2]! * along[2] : null;
  }

  // the frame nearest to a depth among those that lie parallel to `along`
  nearest(depth: number, along: Point): number | null {
    let best: number | null = null;
    let least = Infinity;
    for (let index = 0; index < this.count; index += 1) {
      const own = this.normal(index);
      const at = this.depth(index, along);
      if (!own || at === null || Math.abs(dot(own, along)) < 0.9) continue;
      const off = Math.abs(at - depth);
      if (off < least) [best, least] = [index, off];
    }
    return best;
  }
}

export function stackOf(imageId: string): { stack: Stack; index: number } | null {
  const found = /^firstread:([^/]+)\/(\d+)$/.exec(imageId);
  const stack = found ? stacks.get(found[1]!) : undefined;
  return stack ? { stack, index: Number(found![2]) } : null;
}

export function place(frame: Frame): { origin: number[]; axes: number[]; spacing: [number, number] } {
  return { origin: frame.origin ?? [0, 0, 0], axes: frame.axes ?? [1, 0, 0, 0, 1, 0], spacing: frame.spacing ?? [1, 1] };
}

export function cross(a: readonly number[], b: readonly number[]): Point {
  return [a[1]! * b[2]! - a[2]! * b[1]!, a[2]! * b[0]! - a[0]! * b[2]!, a[0]! * b[1]! - a[1]! * b[0]!];
}

export function dot(a: readonly number[], b: readonly number[]): number {
  return a[0]! * b[0]! + a[1]! * b[1]! + a[2]! * b[2]!;
}

export function forget(stack: Stack): void {
  stack.stop();
  for (const id of stack.imageIds) if (cache.getImageLoadObject(id)) cache.removeImageLoadObject(id);
}

// letters of a direction in the patient, as dashboard/stacks.py prints them
export function letters(direction: readonly number[]): string {
  const names = [["L", "R"], ["P", "A"], ["H", "F"]] as const;
  return [0, 1, 2]
    .filter((k) => Math.abs(direction[k]!) > 0.3)
    .sort((a, b) => Math.abs(direction[b]!) - Math.abs(direction[a]!))
    .map((k) => names[k]![direction[k]! > 0 ? 0 : 1])
    .join("");
}
