// The numbers of a table as a chart: lines over weeks, bars, or shares with their confidence intervals.
import { BarController, BarElement, CategoryScale, Chart, Legend, LinearScale, LineController, LineElement, PointElement, Tooltip } from "chart.js";
import { BarWithErrorBarsController, BarWithErrorBar } from "chartjs-chart-error-bars";

interface Series {
  readonly name: string;
  readonly values: readonly (number | null)[];
  readonly low?: readonly (number | null)[];
  readonly high?: readonly (number | null)[];
}

interface Spec {
  readonly kind: "line" | "bars" | "interval";
  readonly labels: readonly string[];
  readonly series: readonly Series[];
}

Chart.register(
  BarController, BarElement, BarWithErrorBarsController, BarWithErrorBar, CategoryScale, Legend, LinearScale, LineController, LineElement,
  PointElement, Tooltip,
);

const COLOURS = ["--accent", "--ai", "--warn", "--ok"];

export function draw(canvas: HTMLCanvasElement): void {
  const spec = JSON.parse(canvas.dataset["chart"] ?? "null") as Spec | null;
  if (spec === null) return;
  const palette = getComputedStyle(document.documentElement);
  const colour = (name: string): string => palette.getPropertyValue(name).trim();
  const grid = { color: colour("--line") };
  const ticks = { color: colour("--quiet") };
  const sideways = spec.kind === "interval";
  const chart = new Chart(canvas, {
    type: spec.kind === "line" ? "line" : spec.kind === "bars" ? "bar" : ("barWithErrorBars" as "bar"),
    data: {
      labels: [...spec.labels],
      datasets: spec.series.map((one, at) => ({
        label: one.name,
        data: points(one, sideways) as number[],
        borderColor: colour(COLOURS[at % COLOURS.length] ?? "--accent"),
        backgroundColor: `${colour(COLOURS[at % COLOURS.length] ?? "--accent")}99`,
        errorBarColor: colour("--text"),
        errorBarWhiskerColor: colour("--text"),
        maxBarThickness: 22,
        spanGaps: true,
      })),
    },
    options: {
      animation: false,
      maintainAspectRatio: false,
      indexAxis: sideways ? "y" : "x",
      scales: {
        x: { grid, ticks, beginAtZero: true, ...(sideways ? { max: 100 } : {}) },
        y: { grid, ticks, beginAtZero: true },
      },
      plugins: { legend: { labels: { color: colour("--text") } } },
    },
  });
  const button = canvas.closest("section")?.querySelector<HTMLButtonElement>("[data-save-chart]");
  button?.addEventListener("click", () => save(chart, button.dataset["saveChart"] ?? "chart"));
}

function points(one: Series, sideways: boolean): unknown[] {
  const { low, high } = one;
  if (!sideways || low === undefined || high === undefined) return [...one.values];
  return one.values.map((value, at) => ({ x: value, xMin: low[at], xMax: high[at] }));
}

/** Hands the chart to the browser as a file, on the page's own ground: a clear one is unreadable on paper. */
function save(chart: Chart, name: string): void {
  const paper = document.createElement("canvas");
  paper.width = chart.canvas.width;
  paper.height = chart.canvas.height;
  const pen = paper.getContext("2d");
  if (pen === null) return;
  pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--panel").trim();
  pen.fillRect(0, 0, paper.width, paper.height);
  pen.drawImage(chart.canvas, 0, 0);
  paper.toBlob((blob) => {
    if (blob === null) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `firstread-${name}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}
