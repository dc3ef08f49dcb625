// An earlier study beside the present one, scrolled together by position.
import { loadScene, type Scene, type SeriesEntry } from "./model";
import type { Stage } from "./stage";

export class Priors {
  private readonly scenes = new Map<string, Scene>();

  constructor(private readonly stage: Stage) {}

  // asked again it goes away
  async toggle(studyId = this.stage.scene.priors[0]?.study_id): Promise<void> {
    const { stage } = this;
    if (!studyId) return stage.say("No earlier study has its images here.");
    if (stage.panes.some((pane) => pane.stack?.studyId === studyId)) return stage.lay(1, 1);
    const { stack, wanted } = stage.active;
    const entry = stage.scene.priors.find((one) => one.study_id === studyId);
    const scene = this.scenes.get(studyId) ?? (await loadScene(studyId, "", true));
    this.scenes.set(studyId, scene);
    const series = stack && comparable(stack.series, scene.series);
    if (!stack || !series) return stage.say("The earlier study holds no images to compare with.");
    stage.lay(1, 2);
    const [left, right] = [stage.panes[0]!, stage.panes[1]!];
    await stage.put(left, stack, wanted, "Current");
    await stage.hangSeries(right, series.id, undefined, scene, `Prior ${entry?.day ?? ""}`);
    stage.links.align(left, right);
  }
}

// the series to compare with: same modality, then the same role or words, then the most images
function comparable(now: SeriesEntry, series: SeriesEntry[]): SeriesEntry | undefined {
  const same = series.filter((one) => one.modality === now.modality);
  const score = (one: SeriesEntry): number =>
    (one.role && one.role === now.role ? 1e6 : 0) + (one.description.toLowerCase() === now.description.toLowerCase() ? 1e5 : 0) + one.count;
  return same.sort((a, b) => score(b) - score(a))[0];
}
