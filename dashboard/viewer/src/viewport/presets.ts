// Windows to choose by number: the server's for CT, else contrasts relative to the image's own window.
import type { Preset, SeriesEntry } from "./model";

export function fallbackPresets(series: SeriesEntry | null): Preset[] {
  return series?.presets ?? [{ name: "As acquired" }];
}
