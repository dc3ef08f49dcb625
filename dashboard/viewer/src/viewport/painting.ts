// Masks and boxes over a pane, placed by the same geometry the image is drawn with.
import type { Types } from "@cornerstonejs/core";

import { colourOf, look } from "./masks";
import type { Pane } from "./pane";
import type { Pixel } from "./stack";

export function paintMasks(pane: Pane): void {
  const { masksCanvas: canvas, element, stack } = pane;
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(element.clientWidth * ratio), Math.round(element.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d")!;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  if (!stack || !width || !height) return;
  if (pane.plane) paintPlane(pane, context, ratio);
  else paintFrame(pane, context, ratio);
}

function paintFrame(pane: Pane, context: CanvasRenderingContext2D, ratio: number): void {
  const index = pane.shown;
  const stack = pane.stack!;
  const frame = stack.frames[index];
  if (!frame?.rows) return;
  const at = (pixel: Pixel): Types.Point2 => pane.viewport.worldToCanvas(stack.toWorld(index, pixel));
  const picture = pane.masks?.picture(index, pane.highlighted);
  if (picture && picture.width === frame.columns && picture.height === frame.rows) {
    const [o, x, y] = [at([0, 0]), at([frame.columns, 0]), at([0, frame.rows])];
    const [ux, uy] = [(x[0] - o[0]) / frame.columns, (x[1] - o[1]) / frame.columns];
    const [vx, vy] = [(y[0] - o[0]) / frame.rows, (y[1] - o[1]) / frame.rows];
    context.setTransform(ux * ratio, uy * ratio, vx * ratio, vy * ratio, o[0] * ratio, o[1] * ratio);
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, -0.5, -0.5); // [0, 0] is the centre of a pixel
    context.setTransform(1, 0, 0, 1, 0, 0);
  }
  if (pane.box && pane.box.uid === frame.uid) {
    const [left, top, right, bottom] = pane.box.corners;
    const corners: Pixel[] = [[left, top], [right, top], [right, bottom], [left, bottom]];
    context.beginPath();
    for (const corner of corners) {
      const [x, y] = at(corner);
      context.lineTo(x * ratio, y * ratio);
    }
    context.closePath();
    context.strokeStyle = "#ffd479";
    context.lineWidth = 2 * ratio;
    context.stroke();
  }
}

// a reformatted plane: each second screen pixel is asked which voxel it lies in
function paintPlane(pane: Pane, context: CanvasRenderingContext2D, ratio: number): void {
  const stack = pane.stack!;
  const shown = pane.masks?.visible ?? [];
  const grid = gridOf(pane);
  if (!shown.length || !grid) return;
  const [width, height] = [Math.ceil(pane.element.clientWidth / 2), Math.ceil(pane.element.clientHeight / 2)];
  const picture = new ImageData(width, height);
  for (const segment of shown) {
    const volume = pane.masks!.volume(segment.map);
    if (!volume) continue;
    const { labels, rows, columns } = volume;
    const colour = [...colourOf(segment), Math.round(255 * look.opacity * 1.3)];
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        const column = Math.round(grid.o[0]! + grid.x[0]! * x + grid.y[0]! * y);
        const row = Math.round(grid.o[1]! + grid.x[1]! * x + grid.y[1]! * y);
        const slice = Math.round(grid.o[2]! + grid.x[2]! * x + grid.y[2]! * y);
        if (column < 0 || row < 0 || slice < 0 || column >= columns || row >= rows || slice >= stack.count) continue;
        if (labels[(slice * rows + row) * columns + column] === segment.value) picture.data.set(colour, (y * width + x) * 4);
      }
    }
  }
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d")!.putImageData(picture, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, width * 2 * ratio, height * 2 * ratio);
}

interface Grid {
  o: number[];
  x: number[];
  y: number[];
}

// voxel coordinates (column, row, slice) as a linear function of half-size screen pixels
function gridOf(pane: Pane): Grid | null {
  const stack = pane.stack!;
  const normal = stack.normal(0);
  const [first, last] = [normal && stack.depth(0, normal), normal && stack.depth(stack.count - 1, normal)];
  if (!normal || first === null || last === null || first === last) return null;
  const voxel = (x: number, y: number): number[] => {
    const world = pane.viewport.canvasToWorld([x, y]);
    const depth = world[0] * normal[0] + world[1] * normal[1] + world[2] * normal[2];
    return [...stack.toPixel(0, world), ((depth - first) / (last - first)) * (stack.count - 1)];
  };
  const [o, x, y] = [voxel(1, 1), voxel(3, 1), voxel(1, 3)];
  return { o, x: x.map((value, k) => value - o[k]!), y: y.map((value, k) => value - o[k]!) };
}
