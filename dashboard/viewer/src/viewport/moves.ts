// What turns or zooms the picture of one pane.
import type { Pane } from "./pane";

export function invert({ viewport }: Pane): void {
  viewport.setProperties({ invert: !viewport.getProperties().invert });
  viewport.render();
}

export function mirror({ viewport }: Pane): void {
  viewport.setCamera({ flipHorizontal: !viewport.getCamera().flipHorizontal });
  viewport.render();
}

export function rotate({ viewport }: Pane): void {
  viewport.setViewPresentation({ rotation: ((viewport.getViewPresentation().rotation ?? 0) + 90) % 360 });
  viewport.render();
}

export function zoomBy({ viewport }: Pane, factor: number): void {
  viewport.setZoom(Math.max(0.2, Math.min(30, viewport.getZoom() * factor)));
  viewport.render();
}
