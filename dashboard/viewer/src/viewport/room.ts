// Opens the stage and ties it to the page: events of other rooms, the rail, keys, how long images were looked at.
import { bindKeys } from "./keys";
import type { ShowDetail } from "./model";
import { Stage } from "./stage";
import { announce, onRemote } from "./window";

const BEAT_S = 5;
let last: { stage: Stage; end: () => void } | null = null;

export async function openStage(root: HTMLElement): Promise<Stage> {
  last?.end();
  const stage = new Stage(root);
  const ended = new AbortController();
  const { signal } = ended;
  const on = (name: string, handle: (event: CustomEvent) => void): void => document.addEventListener(name, (event) => handle(event as CustomEvent), { signal });
  stage.onFirst = () => {
    root.dataset["drawn"] = "1";
    performance.mark("firstread:first-image");
    document.dispatchEvent(new CustomEvent("firstread:viewed", { detail: { first: true, seconds: 0 } }));
  };
  // the same image drawn again, or the one a window opens with, is no move of a person's: it would pull the other back
  let place = "";
  stage.onMoved = () => {
    const [series, index] = [stage.active.stack?.series.id, stage.active.shown];
    const before = place;
    place = `${series}/${index}`;
    if (before && before !== place) announce({ kind: "moved", series, index });
  };
  const beat = window.setInterval(() => {
    const isSeen = document.visibilityState === "visible" && root.isConnected && root.dataset["drawn"] === "1";
    if (isSeen) document.dispatchEvent(new CustomEvent("firstread:viewed", { detail: { seconds: BEAT_S } }));
  }, BEAT_S * 1000);
  const end = (): void => {
    ended.abort();
    window.clearInterval(beat);
    stage.stop();
  };
  last = { stage, end };
  // what is asked for while the first image is still on its way is not lost
  let asked: ShowDetail | null = null;
  let isOpen = false;
  on("firstread:show", (event) => {
    if (isOpen) void stage.show(event.detail as ShowDetail);
    else asked = event.detail as ShowDetail;
    announce({ kind: "show", detail: event.detail as ShowDetail });
  });
  on("firstread:decided", () => void stage.overlays.refresh());
  try {
    await stage.start();
  } catch (error) {
    end();
    if (last?.stage === stage) last = null;
    throw error;
  }
  isOpen = true;
  if (asked && !stage.isStopped) void stage.show(asked);
  onRemote(stage, signal);
  bindRail(stage, root, signal);
  bindKeys(stage, signal);
  return stage;
}

// a click hangs the series in the active pane, a drag in any
function bindRail(stage: Stage, root: HTMLElement, signal: AbortSignal): void {
  const rail = root.querySelector(".rail");
  rail?.addEventListener(
    "click",
    (event) => {
      const link = (event.target as Element).closest<HTMLElement>("a[data-series]");
      if (!link) return;
      event.preventDefault();
      event.stopPropagation();
      void stage.hangSeries(stage.active, link.dataset["series"] ?? "");
    },
    { capture: true, signal },
  );
  rail?.addEventListener(
    "dragstart",
    (event) => {
      const link = (event.target as Element).closest<HTMLElement>("a[data-series]");
      (event as DragEvent).dataTransfer?.setData("text/x-firstread-series", link?.dataset["series"] ?? "");
    },
    { signal },
  );
}
