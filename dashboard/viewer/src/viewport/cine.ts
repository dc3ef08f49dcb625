// Cine: the next frame each tick, back to the first after the last.
import type { Pane } from "./pane";

export class Cine {
  private timer = 0;
  private perSecond = 15;

  get isRunning(): boolean {
    return this.timer !== 0;
  }

  get speed(): number {
    return this.perSecond;
  }

  setSpeed(perSecond: number, pane: Pane): void {
    this.perSecond = Math.max(1, Math.min(60, perSecond));
    if (this.isRunning) this.start(pane);
  }

  toggle(pane: Pane): void {
    if (this.isRunning) this.stop();
    else this.start(pane);
  }

  private start(pane: Pane): void {
    this.stop();
    this.timer = window.setInterval(() => {
      const stack = pane.stack;
      if (!stack || pane.plane) return this.stop();
      const next = (pane.wanted + 1) % stack.count;
      // waits for a frame that is not here yet rather than skipping it
      if (pane.shown === pane.wanted || stack.isCached(next)) void pane.goTo(next);
    }, 1000 / this.perSecond);
  }

  stop(): void {
    window.clearInterval(this.timer);
    this.timer = 0;
  }
}
