// Draws the charts of the quality page; their library comes only where there is a chart.
export function startQuality(loaded: Element): void {
  const canvases = [...loaded.querySelectorAll<HTMLCanvasElement>("canvas[data-chart]")];
  if (canvases.length === 0) return;
  void import("./charts").then(({ draw }) => canvases.forEach(draw));
}
