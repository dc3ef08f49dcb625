// Panes that scroll together by position in the patient. A prior has its own coordinates: an offset brings it near.
import type { Pane } from "./pane";
import type { Stage } from "./stage";

export class Links {
  isOn = false;

  constructor(private readonly stage: Stage) {}

  follow(leader: Pane): void {
    const stack = leader.stack;
    const normal = stack?.normal(leader.wanted);
    if (!this.isOn || !stack || !normal || leader.plane) return;
    const depth = stack.depth(leader.wanted, normal);
    if (depth === null) return;
    for (const pane of this.stage.panes) {
      if (pane === leader || !pane.stack || pane.plane) continue;
      const target = pane.stack.nearest(depth - leader.linkOffset + pane.linkOffset, normal);
      if (target !== null && target !== pane.wanted) void pane.goTo(target);
    }
  }

  // switched on by hand, what is on the screen now belongs together
  toggle(): void {
    this.isOn = !this.isOn;
    const leader = this.stage.active;
    const normal = leader.stack?.normal(leader.wanted);
    if (!this.isOn || !normal) return;
    for (const pane of this.stage.panes) pane.linkOffset = pane.depth(normal) ?? 0;
  }

  // two studies: the same table position when their ranges overlap, else their middles
  align(now: Pane, prior: Pane): void {
    this.isOn = true;
    now.linkOffset = prior.linkOffset = 0;
    const normal = now.stack?.normal(now.wanted);
    const [one, other] = [normal && range(now, normal), normal && range(prior, normal)];
    if (!one || !other) return;
    const shared = Math.min(one[1], other[1]) - Math.max(one[0], other[0]);
    if (shared < 0.3 * Math.min(one[1] - one[0], other[1] - other[0])) {
      now.linkOffset = (one[0] + one[1]) / 2;
      prior.linkOffset = (other[0] + other[1]) / 2;
    }
    this.follow(now);
  }
}

function range(pane: Pane, normal: [number, number, number]): [number, number] | null {
  const { stack } = pane;
  const ends = stack ? [stack.depth(0, normal), stack.depth(stack.count - 1, normal)] : [];
  return ends[0] === null || ends[0] === undefined || ends[1] === null || ends[1] === undefined ? null : [Math.min(ends[0], ends[1]), Math.max(ends[0], ends[1])];
}
