// What the server says of a study: its series, how they hang, and the frames of each (dashboard/scene.py).

export interface Preset {
  name: string;
  center?: number;
  width?: number;
}

export interface SeriesEntry {
  id: string;
  uid: string;
  modality: string;
  number: number | null;
  description: string;
  role: string;
  count: number;
  presets: Preset[];
}

export interface PriorEntry {
  study_id: string;
  day: string;
  description: string;
  modalities: string;
}

export interface Scene {
  study_id: string;
  study_uid: string;
  study_date: string;
  description: string;
  dicomweb: boolean;
  series: SeriesEntry[];
  hanging: { rows: number; columns: number; cells: string[]; linked: boolean };
  priors: PriorEntry[];
}

export interface Frame {
  uid: string;
  frame: number;
  edges: [string, string, string, string];
  rows?: number;
  columns: number;
  allocated: number;
  stored: number;
  signed: boolean;
  inverted: boolean;
  picture: boolean;
  sop_class: string;
  instance: number;
  view: string;
  frame_ms: number;
  slope: number;
  intercept: number;
  unit: string;
  window: [number, number] | null;
  function: string;
  spacing: [number, number];
  spacing_unit: string;
  axes: number[] | null;
  origin: number[] | null;
  reference: string;
}

export class ServerError extends Error {}

export async function getJson<T>(url: string): Promise<T> {
  const answer = await fetch(url, { headers: { Accept: "application/json" }, credentials: "same-origin" });
  if (answer.redirected || answer.status === 401) throw new ServerError("Your session has ended: log in again.");
  if (!answer.ok) throw new ServerError(await reason(answer));
  return (await answer.json()) as T;
}

// an error page has its words in a paragraph; DICOMweb answers a line of text
export async function reason(answer: Response): Promise<string> {
  const text = await answer.text().catch(() => "");
  const isPage = (answer.headers.get("Content-Type") ?? "").includes("html");
  const words = isPage ? (new DOMParser().parseFromString(text, "text/html").querySelector("main p")?.textContent ?? "") : text;
  return `${words.trim().slice(0, 200) || "The server did not send it"} (${answer.status})`;
}

// asked for while Cornerstone itself is still being loaded; each answer is used once
const early = new Map<string, Promise<unknown>>();

export function askEarly(studyId: string, first: string): void {
  for (const url of [sceneUrl(studyId, first, false), framesUrl(studyId, first)]) {
    const asked = getJson(url);
    asked.catch(() => undefined); // whoever uses it hears of it
    early.set(url, asked);
  }
}

function once<T>(url: string): Promise<T> {
  const asked = early.get(url) as Promise<T> | undefined;
  early.delete(url);
  return asked ?? getJson<T>(url);
}

function sceneUrl(studyId: string, first: string, alone: boolean): string {
  return `/studies/${studyId}/scene?first=${encodeURIComponent(first)}${alone ? "&alone=1" : ""}`;
}

function framesUrl(studyId: string, seriesId: string): string {
  return `/studies/${studyId}/scene/${seriesId}`;
}

export async function loadScene(studyId: string, first: string, alone = false): Promise<Scene> {
  return once<Scene>(sceneUrl(studyId, first, alone));
}

export async function loadFrames(studyId: string, seriesId: string): Promise<Frame[]> {
  const made = await once<{ common: Partial<Frame>; frames: Partial<Frame>[] }>(framesUrl(studyId, seriesId));
  return made.frames.map((one) => ({ ...made.common, ...one }) as Frame);
}

// what other rooms ask for by the event firstread:show
export interface ShowDetail {
  sopInstanceUid?: string;
  seriesInstanceUid?: string;
  seriesId?: string;
  frameNumber?: number;
  index?: number;
  segmentLabel?: string;
  trackingUid?: string;
  box?: [number, number, number, number];
}
