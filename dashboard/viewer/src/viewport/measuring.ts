// Cornerstone's measuring tools; what is drawn is kept by the server (dashboard/annotations.py) and comes back.
import { eventTarget, utilities, type Types } from "@cornerstonejs/core";
import {
  AngleTool, annotation as annotations, ArrowAnnotateTool, EllipticalROITool, Enums, LengthTool, ProbeTool,
  RectangleROITool, type Types as ToolTypes,
} from "@cornerstonejs/tools";

import { getJson, reason } from "./model";
import { stackOf, type Pixel, type Point, type Stack } from "./stack";

export const MEASURES = {
  LENGTH: { tool: LengthTool.toolName, word: "Length" },
  ANGLE: { tool: AngleTool.toolName, word: "Angle" },
  RECTANGLE: { tool: RectangleROITool.toolName, word: "Rectangle" },
  ELLIPSE: { tool: EllipticalROITool.toolName, word: "Ellipse" },
  PROBE: { tool: ProbeTool.toolName, word: "Probe" },
  ARROW: { tool: ArrowAnnotateTool.toolName, word: "Arrow" },
} as const;
export type Kind = keyof typeof MEASURES;

export interface Kept {
  id: string;
  series_instance_uid: string;
  sop_instance_uid: string;
  frame_number: number;
  kind: Kind;
  points: Pixel[];
  value: number | null;
  unit: string;
  text: string;
  author: string;
  mine: boolean;
}

type Drawn = Omit<ToolTypes.Annotation, "data" | "metadata"> & {
  metadata: NonNullable<ToolTypes.Annotation["metadata"]>;
  data: { handles: { points: Types.Point3[] }; cachedStats: Record<string, Record<string, number | string>>; text?: string; label?: string };
};

function kindOf(tool: string): Kind | null {
  return (Object.keys(MEASURES) as Kind[]).find((kind) => MEASURES[kind].tool === tool) ?? null;
}

// the plane of a detector is not the patient: said behind every number
function unitOf(drawn: Drawn): string {
  const found = stackOf(drawn.metadata.referencedImageId ?? "");
  return found?.stack.frames[found.index]?.spacing_unit ?? "px";
}

export function lengthText(data: unknown, targetId: string): string[] {
  const found = stackOf(targetId.replace(/^imageId:/, ""));
  const stats = (data as Drawn["data"]).cachedStats[targetId];
  if (typeof stats?.["length"] !== "number") return [];
  const unit = found?.stack.frames[found.index]?.spacing_unit ?? "px";
  return [`${stats["length"].toFixed(1)} ${unit}`];
}

export class Measuring {
  private readonly kept = new Map<string, Kept>();
  private isLoaded = false;
  private readonly restored = new Set<Stack>();
  private readonly waiting = new Map<string, number>();
  onTrouble: (text: string) => void = () => undefined;
  isRestoring = false;

  constructor(
    private readonly studyId: string,
    private readonly token: string,
    private readonly mayKeep: boolean,
  ) {
    const { Events } = Enums;
    eventTarget.addEventListener(Events.ANNOTATION_COMPLETED, (event: Event) => this.later((event as CustomEvent).detail.annotation, true));
    eventTarget.addEventListener(Events.ANNOTATION_MODIFIED, (event: Event) => this.later((event as CustomEvent).detail.annotation, false));
    eventTarget.addEventListener(Events.ANNOTATION_REMOVED, (event: Event) => void this.removed((event as CustomEvent).detail.annotation));
  }

  async load(): Promise<void> {
    const { annotations: rows } = await getJson<{ annotations: Kept[] }>(`/studies/${this.studyId}/annotations`);
    for (const row of rows) if (!this.kept.has(row.id)) this.kept.set(row.id, row); // one drawn meanwhile is newer
    this.isLoaded = true;
  }

  // put what is kept of a series on the screen, once; before the list has come there is nothing to put
  restore(stack: Stack, element: HTMLDivElement): void {
    if (!this.isLoaded || stack.studyId !== this.studyId || this.restored.has(stack)) return;
    this.restored.add(stack);
    this.isRestoring = true;
    for (const row of this.kept.values()) {
      const index = stack.indexOf(row.sop_instance_uid, row.frame_number);
      const isHere = row.series_instance_uid === stack.series.uid && index >= 0 && !annotations.state.getAnnotation(row.id);
      if (isHere) annotations.state.addAnnotation(this.drawnFrom(row, stack, index), element);
    }
    this.isRestoring = false;
  }

  private drawnFrom(row: Kept, stack: Stack, index: number): ToolTypes.Annotation {
    const normal = stack.normal(index) ?? [0, 0, 1];
    return {
      annotationUID: row.id,
      highlighted: false,
      invalidated: true,
      isLocked: !row.mine || !this.mayKeep,
      isVisible: true,
      metadata: {
        toolName: MEASURES[row.kind].tool,
        FrameOfReferenceUID: stack.frames[index]!.reference || `${stack.series.uid}.0`,
        referencedImageId: stack.imageIds[index],
        viewPlaneNormal: normal.map((value) => -value) as Point,
        viewUp: [0, -1, 0],
      },
      data: {
        label: row.kind === "ARROW" ? row.text : "",
        text: row.text,
        handles: {
          points: row.points.map((pixel) => stack.toWorld(index, pixel)),
          activeHandleIndex: null,
          arrowFirst: true,
          textBox: { hasMoved: false, worldPosition: [0, 0, 0], worldBoundingBox: { topLeft: [0, 0, 0], topRight: [0, 0, 0], bottomLeft: [0, 0, 0], bottomRight: [0, 0, 0] } },
        },
        cachedStats: {},
        initialRotation: 0,
        frameNumber: row.frame_number,
      },
    } as unknown as ToolTypes.Annotation;
  }

  // while something is dragged it changes with every movement: kept when it rests
  private later(drawn: Drawn, isNew: boolean): void {
    const uid = drawn.annotationUID;
    if (!uid || this.isRestoring || (!isNew && !this.kept.has(uid))) return;
    window.clearTimeout(this.waiting.get(uid));
    this.waiting.set(uid, window.setTimeout(() => void this.keep(drawn, isNew), isNew ? 150 : 600));
  }

  private async keep(drawn: Drawn, isNew: boolean): Promise<void> {
    const found = stackOf(drawn.metadata.referencedImageId ?? "");
    const kind = kindOf(drawn.metadata.toolName);
    const uid = drawn.annotationUID!;
    if (!found || !kind || found.stack.studyId !== this.studyId) return;
    const { stack, index } = found;
    const frame = stack.frames[index]!;
    const points = drawn.data.handles.points.map((point) => stack.toPixel(index, point));
    const before = this.kept.get(uid);
    if (before && JSON.stringify(before.points) === JSON.stringify(points)) return;
    const { value, unit, text } = told(kind, drawn);
    const row: Kept = {
      id: uid, series_instance_uid: stack.series.uid, sop_instance_uid: frame.uid, frame_number: frame.frame,
      kind, points, value, unit: unit || (kind === "LENGTH" ? unitOf(drawn) : ""), text, author: "", mine: true,
    };
    const place = `series ${stack.series.number ?? "–"}, image ${index + 1}`;
    if (!this.mayKeep) {
      if (isNew) this.onTrouble("Shown here, not kept: your role does not keep measurements.");
    } else if (!(await this.send("POST", uid, row))) return;
    this.kept.set(uid, row);
    const words = `${MEASURES[kind].word} ${row.value === null ? row.text : `${trimmed(row.value)} ${row.unit}`}`.trim();
    const detail = { text: `${words} (${place})`, kind, value: row.value, unit: row.unit, sopInstanceUid: frame.uid, isNew };
    document.dispatchEvent(new CustomEvent("firstread:measured", { detail }));
  }

  private async removed(drawn: Drawn): Promise<void> {
    const uid = drawn?.annotationUID;
    if (!uid || !this.kept.has(uid) || !this.mayKeep) return;
    this.kept.delete(uid);
    window.clearTimeout(this.waiting.get(uid));
    await this.send("DELETE", uid);
  }

  private async send(method: "POST" | "DELETE", uid: string, row?: Kept): Promise<boolean> {
    const answer = await fetch(`/studies/${this.studyId}/annotations/${uid}`, {
      method,
      headers: { "Content-Type": "application/json", "X-CSRFToken": this.token },
      credentials: "same-origin",
      ...(row ? { body: JSON.stringify(row) } : {}),
    }).catch(() => null);
    if (answer?.ok && row) {
      const measured = (await answer.json()) as { value: number | null; unit: string };
      [row.value, row.unit] = [measured.value, measured.unit];
    }
    if (answer?.ok) return true;
    this.onTrouble(`The measurement is not kept: ${answer ? await reason(answer) : "the server cannot be reached"}`);
    return false;
  }

  removeSelected(): boolean {
    const chosen = annotations.selection.getAnnotationsSelected();
    for (const uid of chosen) annotations.state.removeAnnotation(uid);
    return chosen.length > 0;
  }
}

function trimmed(value: number): string {
  return String(Math.round(value * 10) / 10);
}

// what the screen says of it; lengths and angles are measured again by the server
function told(kind: Kind, drawn: Drawn): { value: number | null; unit: string; text: string } {
  const stats = Object.values(drawn.data.cachedStats ?? {})[0] ?? {};
  const number = (name: string): number | null => (typeof stats[name] === "number" && Number.isFinite(stats[name]) ? (stats[name] as number) : null);
  if (kind === "LENGTH") return { value: number("length"), unit: "", text: "" };
  if (kind === "ANGLE") return { value: number("angle"), unit: "deg", text: "" };
  if (kind === "PROBE") {
    const value = Array.isArray(stats["value"]) ? Number(stats["value"][0]) : number("value");
    return { value, unit: modalityUnit(drawn), text: "" };
  }
  if (kind === "ARROW") return { value: null, unit: "", text: drawn.data.text ?? drawn.data.label ?? "" };
  const [mean, deviation, area] = [number("mean"), number("stdDev"), number("area")];
  const unit = modalityUnit(drawn);
  const text = mean === null ? "" : `mean ${mean.toFixed(1)} ± ${(deviation ?? 0).toFixed(1)} ${unit}, area ${(area ?? 0).toFixed(0)} ${unitOf(drawn).replace("mm", "mm²").replace("px", "px²")}`;
  return { value: mean === null ? null : Math.round(mean * 100) / 100, unit, text };
}

function modalityUnit(drawn: Drawn): string {
  const found = stackOf(drawn.metadata.referencedImageId ?? "");
  return found?.stack.frames[found.index]?.unit ?? "";
}

export const newId = (): string => utilities.uuidv4();
