// The border between images and report: dragged, or moved by arrow keys; remembered in this browser.
const KEY = "firstread-split";
const [LEAST, MOST, STEP] = [35, 75, 2];

export function startSplitter(root: HTMLElement): void {
  const bench = root.parentElement;
  if (!bench?.classList.contains("bench") || bench.classList.contains("alone") || bench.querySelector(".splitter")) return;
  const bar = document.createElement("div");
  bar.className = "splitter no-print";
  bar.tabIndex = 0;
  bar.setAttribute("role", "separator");
  bar.setAttribute("aria-orientation", "vertical");
  bar.setAttribute("aria-label", "Width of the images; arrow keys move it");
  bar.setAttribute("aria-valuemin", String(LEAST));
  bar.setAttribute("aria-valuemax", String(MOST));
  root.after(bar);
  const put = (percent: number): void => {
    const kept = Math.max(LEAST, Math.min(MOST, percent));
    bench.style.setProperty("--split", `${kept}fr`);
    bench.style.setProperty("--rest", `${100 - kept}fr`);
    bar.setAttribute("aria-valuenow", String(Math.round(kept)));
    localStorage.setItem(KEY, String(kept));
  };
  put(Number(localStorage.getItem(KEY)) || 58);
  bar.addEventListener("keydown", (event) => {
    const now = Number(bar.getAttribute("aria-valuenow"));
    if (event.key === "ArrowLeft") put(now - STEP);
    else if (event.key === "ArrowRight") put(now + STEP);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  bar.addEventListener("pointerdown", (down) => {
    bar.setPointerCapture(down.pointerId);
    const move = (event: PointerEvent): void => {
      const box = bench.getBoundingClientRect();
      put(((event.clientX - box.left) / box.width) * 100);
    };
    bar.addEventListener("pointermove", move);
    bar.addEventListener("lostpointercapture", () => bar.removeEventListener("pointermove", move), { once: true });
  });
  bar.addEventListener("dblclick", () => put(58));
}
