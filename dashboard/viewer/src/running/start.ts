// Starts queue, models, rules, disk, self-test inside what was just loaded.
import { startDrop } from "./drop";
import { startQueue } from "./queue";

export function startRunning(loaded: Element): void {
  startQueue(loaded);
  startDrop(loaded);
}
