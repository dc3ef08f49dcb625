// Starts alerts inside what was just loaded.
export function startCritical(loaded: Element): void {
  void loaded;
}
