// Starts charts inside what was just loaded.
export function startQuality(loaded: Element): void {
  void loaded;
}
