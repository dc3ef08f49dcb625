// Cornerstone's image loader and metadata provider over our DICOMweb: frames come decoded (the server decodes
// compressed transfer syntaxes), so no codec runs in the browser. Values leave here in modality units (HU).
import { imageLoader, metaData, utilities, type Types } from "@cornerstonejs/core";

import { reason, ServerError, type Frame } from "./model";
import { place, stackOf, type Stack } from "./stack";

const DECODED = "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1";

type Values = Int16Array | Uint16Array | Uint8Array | Float32Array;

function modalityValues(buffer: ArrayBuffer, frame: Frame): Values {
  const count = (frame.rows ?? 0) * frame.columns;
  if (buffer.byteLength < (count * frame.allocated) / 8) throw new ServerError("The pixel data are shorter than the header says");
  const raw = rawValues(buffer, frame, count);
  const { slope, intercept } = frame;
  const isWhole = Number.isInteger(slope) && Number.isInteger(intercept);
  const [low, high] = [frame.signed ? -(2 ** (frame.stored - 1)) : 0, 2 ** (frame.stored - (frame.signed ? 1 : 0)) - 1];
  const ends = [low * slope + intercept, high * slope + intercept];
  if (slope === 1 && intercept === 0) return raw;
  const fits = isWhole && Math.min(...ends) >= -32768 && Math.max(...ends) <= 32767;
  const out = fits ? new Int16Array(count) : new Float32Array(count);
  for (let at = 0; at < count; at += 1) out[at] = raw[at]! * slope + intercept;
  return out;
}

function rawValues(buffer: ArrayBuffer, frame: Frame, count: number): Values {
  if (frame.allocated === 1) {
    const bits = new Uint8Array(buffer);
    return Uint8Array.from({ length: count }, (_, at) => (bits[at >> 3]! >> (at & 7)) & 1);
  }
  if (frame.allocated === 8) {
    const bytes = new Uint8Array(buffer, 0, count);
    return frame.signed ? Int16Array.from(new Int8Array(buffer, 0, count)) : bytes;
  }
  if (frame.allocated === 32) return Float32Array.from(frame.signed ? new Int32Array(buffer, 0, count) : new Uint32Array(buffer, 0, count));
  const shift = 16 - frame.stored; // bits above Bits Stored may hold anything
  if (frame.signed) {
    const words = new Int16Array(buffer, 0, count);
    if (shift > 0) for (let at = 0; at < count; at += 1) words[at] = (words[at]! << (16 + shift)) >> (16 + shift);
    return words;
  }
  const words = new Uint16Array(buffer, 0, count);
  const mask = 0xffff >> shift;
  if (shift > 0) for (let at = 0; at < count; at += 1) words[at]! &= mask;
  return words;
}

function frameUrl(stack: Stack, frame: Frame): string {
  return `/dicomweb/studies/${stack.studyUid}/series/${stack.series.uid}/instances/${frame.uid}/frames/${frame.frame}`;
}

async function fetched(url: string, accept: string): Promise<Response> {
  const answer = await fetch(url, { headers: { Accept: accept }, credentials: "same-origin" }).catch(() => {
    throw new ServerError("The server cannot be reached");
  });
  if (answer.redirected || answer.status === 401) throw new ServerError("Your session has ended: log in again");
  if (!answer.ok) throw new ServerError(await reason(answer));
  return answer;
}

async function pixels(stack: Stack, index: number): Promise<Types.IImage> {
  const frame = stack.frames[index]!;
  if (!frame.rows) throw new ServerError("The header of this image cannot be read");
  if (frame.picture) return picture(stack, index, frame);
  const answer = await fetched(frameUrl(stack, frame), DECODED);
  return grey(stack, index, frame, modalityValues(await answer.arrayBuffer(), frame));
}

function grey(stack: Stack, index: number, frame: Frame, values: Values): Types.IImage {
  let [min, max] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < min) min = value;
    if (value > max) max = value;
  }
  const window = frame.window ?? [(min + max) / 2, Math.max(1, max - min)];
  return image(stack, index, frame, values, { min, max, window, color: false });
}

// colour and what passes through a table: the server's own rendering, eight bits a channel
async function picture(stack: Stack, index: number, frame: Frame): Promise<Types.IImage> {
  const answer = await fetched(`/studies/${stack.studyId}/series/${stack.series.id}/slices/${index}.png`, "image/png");
  const bitmap = await createImageBitmap(await answer.blob());
  const canvas = new OffscreenCanvas(frame.columns, frame.rows!);
  const context = canvas.getContext("2d")!;
  context.drawImage(bitmap, 0, 0, frame.columns, frame.rows!); // a picture has square pixels, the matrix may not
  const values = new Uint8Array(context.getImageData(0, 0, frame.columns, frame.rows!).data.buffer);
  return image(stack, index, frame, values, { min: 0, max: 255, window: [128, 256], color: true });
}

interface Look {
  min: number;
  max: number;
  window: [number, number];
  color: boolean;
}

function image(stack: Stack, index: number, frame: Frame, values: Values, look: Look): Types.IImage {
  const components = look.color ? 4 : 1;
  const voxelManager = utilities.VoxelManager.createImageVoxelManager({
    scalarData: values as Types.PixelDataTypedArray,
    width: frame.columns,
    height: frame.rows!,
    numberOfComponents: components,
  });
  const known = frame.spacing_unit !== "px";
  const made = {
    imageId: stack.imageIds[index]!,
    dataType: values.constructor.name,
    color: look.color,
    rgba: look.color,
    columns: frame.columns,
    width: frame.columns,
    rows: frame.rows!,
    height: frame.rows!,
    columnPixelSpacing: known ? frame.spacing[1] : undefined,
    rowPixelSpacing: known ? frame.spacing[0] : undefined,
    slope: 1,
    intercept: 0,
    invert: frame.inverted && !look.color,
    minPixelValue: look.min,
    maxPixelValue: look.max,
    windowCenter: look.window[0],
    windowWidth: look.window[1],
    voiLUTFunction: frame.function,
    sizeInBytes: values.byteLength,
    numberOfComponents: components,
    preScale: { enabled: false, scaled: false },
    voxelManager,
    getPixelData: () => values,
    getCanvas: look.color ? () => painted(values, frame) : undefined,
    imageFrame: { photometricInterpretation: look.color ? "RGB" : frame.inverted ? "MONOCHROME1" : "MONOCHROME2" },
  };
  stack.arrived(index);
  return made as unknown as Types.IImage;
}

function painted(values: Values, frame: Frame): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [frame.columns, frame.rows!];
  canvas.getContext("2d")!.putImageData(new ImageData(new Uint8ClampedArray(values), frame.columns, frame.rows!), 0, 0);
  return canvas;
}

function modules(imageId: string): Record<string, () => unknown> | null {
  const found = stackOf(imageId);
  const frame = found?.stack.frames[found.index];
  if (!found || !frame) return null;
  const { origin, axes, spacing } = place(frame);
  const known = frame.spacing_unit !== "px";
  const { series, studyUid } = found.stack;
  return {
    imagePlaneModule: () => ({
      frameOfReferenceUID: frame.reference || `${series.uid}.0`,
      rows: frame.rows,
      columns: frame.columns,
      imageOrientationPatient: axes,
      rowCosines: axes.slice(0, 3),
      columnCosines: axes.slice(3, 6),
      imagePositionPatient: origin,
      pixelSpacing: spacing,
      rowPixelSpacing: known ? spacing[0] : undefined,
      columnPixelSpacing: known ? spacing[1] : undefined,
    }),
    imagePixelModule: () => ({
      // of the values as they leave here, in modality units
      bitsAllocated: frame.picture ? 8 : frame.allocated <= 8 && frame.slope === 1 ? 8 : 16,
      bitsStored: frame.picture ? 8 : frame.stored,
      highBit: frame.stored - 1,
      samplesPerPixel: frame.picture ? 4 : 1,
      photometricInterpretation: frame.picture ? "RGB" : frame.inverted ? "MONOCHROME1" : "MONOCHROME2",
      pixelRepresentation: frame.signed || frame.intercept < 0 ? 1 : 0,
      rows: frame.rows,
      columns: frame.columns,
    }),
    generalSeriesModule: () => ({ modality: series.modality, seriesInstanceUID: series.uid, studyInstanceUID: studyUid, seriesNumber: series.number }),
    voiLutModule: () => ({
      windowCenter: frame.window ? [frame.window[0]] : undefined,
      windowWidth: frame.window ? [frame.window[1]] : undefined,
      voiLUTFunction: frame.function,
    }),
    modalityLutModule: () => ({ rescaleSlope: 1, rescaleIntercept: 0, rescaleType: frame.unit }),
    sopCommonModule: () => ({ sopClassUID: frame.sop_class, sopInstanceUID: frame.uid }),
    generalStudyModule: () => ({ studyInstanceUID: studyUid }),
    generalImageModule: () => ({ sopInstanceUID: frame.uid, instanceNumber: frame.instance }),
  };
}

let isRegistered = false;

export function registerLoader(): void {
  if (isRegistered) return;
  isRegistered = true;
  imageLoader.registerImageLoader("firstread", ((imageId: string) => {
    const found = stackOf(imageId);
    const promise = found ? pixels(found.stack, found.index) : Promise.reject(new ServerError("Unknown image"));
    return { promise };
  }) as unknown as Types.ImageLoaderFn);
  metaData.addProvider((type: string, imageId: unknown) => (typeof imageId === "string" ? modules(imageId)?.[type]?.() : undefined), 10_000);
}
