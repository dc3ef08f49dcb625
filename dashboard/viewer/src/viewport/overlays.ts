// The masks of every series that hangs: fetched once per series, asked again when something was decided.
import { Masks } from "./masks";
import { words } from "./pane";
import type { Stack } from "./stack";
import type { Stage } from "./stage";

export class Overlays {
  private readonly held = new Map<string, Masks>();

  constructor(private readonly stage: Stage) {}

  of(seriesId: string): Masks | null {
    return this.held.get(seriesId) ?? null;
  }

  // an image does not wait for its masks
  async load(stack: Stack): Promise<void> {
    if (stack.studyId !== this.stage.scene.study_id || this.held.has(stack.series.id)) return;
    const made = new Masks(stack);
    this.held.set(stack.series.id, made);
    try {
      await made.loaded;
    } catch (error) {
      this.held.delete(stack.series.id);
      this.stage.say(`The overlays could not be loaded: ${words(error)}`);
      return;
    }
    this.adopt(stack);
    this.paint();
  }

  // panes that show a stack: its masks belong to them
  adopt(stack: Stack): void {
    for (const pane of this.stage.panes) if (pane.stack === stack) pane.masks = this.of(stack.series.id);
  }

  async refresh(): Promise<void> {
    const failed = (error: unknown): void => this.stage.say(`The overlays may be older than the last decision: ${words(error)}`);
    await Promise.all([...this.held.values()].map((made) => made.refresh().catch(failed)));
    this.paint();
  }

  private paint(): void {
    if (this.stage.isStopped || !this.stage.active) return;
    this.stage.changed();
    this.stage.repaint();
  }
}
