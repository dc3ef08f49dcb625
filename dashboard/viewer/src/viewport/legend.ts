// The list of segments below the images: which are shown, how strongly, and that nobody has verified them yet.
import { ICONS } from "./icons";
import { colourOf, look, type Masks, type Segment } from "./masks";

export class Legend {
  constructor(
    private readonly root: HTMLElement,
    private readonly changed: () => void,
    private readonly chosen: (segment: Segment) => void,
  ) {
    root.addEventListener("change", (event) => this.onChange(event.target as HTMLInputElement));
    root.addEventListener("input", (event) => this.onChange(event.target as HTMLInputElement));
    root.addEventListener("click", (event) => this.onClick(event.target as HTMLElement));
  }

  private masks: Masks | null = null;

  show(masks: Masks | null): void {
    this.masks = masks;
    const shown = masks?.segments.filter((one) => one.status !== "rejected") ?? [];
    const refused = (masks?.refused ?? []).map(({ name, why }) => element("span", "quiet small cs-refused-mask", `${name} is not shown: ${why}.`));
    this.root.hidden = !shown.length && !refused.length;
    if (!shown.length) return this.root.replaceChildren(...refused);
    const drafted = shown.filter((one) => one.status !== "received");
    const unverified = drafted.some((one) => one.status === "unverified");
    const verified = unverified ? "AI segmentation, not verified" : "AI segmentation, accepted by the reader";
    const parts = [
      element("label", "chip all", checkbox("all", !look.hidden), "All"),
      ...drafted.map((one) => this.chip(one)),
      ...this.received(shown.filter((one) => one.status === "received")),
      element("label", "cs-look", "Opacity ", slider()),
      element("label", "chip", checkbox("fill", look.fill), "Fill"),
      element("label", "chip", checkbox("outline", look.outline), "Outline"),
      ...(drafted.length ? [element("span", "quiet small cs-verified", verified)] : []),
      ...refused,
    ];
    this.root.replaceChildren(...parts);
  }

  // what came with the study from somebody else, under the name of its sender
  private received(segments: Segment[]): HTMLElement[] {
    return segments.flatMap((one, at) => {
      const isFirst = one.key.split(":")[0] !== segments[at - 1]?.key.split(":")[0];
      return isFirst ? [element("span", "quiet small cs-group", `${one.group ?? ""}:`), this.chip(one)] : [this.chip(one)];
    });
  }

  private chip(segment: Segment): HTMLElement {
    const swatch = element("span", `swatch c${segment.colour}`);
    swatch.setAttribute("aria-hidden", "true");
    if (segment.rgb) swatch.style.backgroundColor = `rgb(${colourOf(segment).join()})`;
    const box = checkbox("segment", segment.shown);
    box.value = segment.key;
    const label = element("label", "chip", box, swatch, segment.name);
    if (segment.status === "accepted") label.append(element("span", "cs-tick", " ✓"));
    const go = element("button", "link small");
    go.innerHTML = ICONS["PROBE"]!;
    go.setAttribute("type", "button");
    go.setAttribute("data-go", segment.key);
    go.setAttribute("aria-label", `Go to ${segment.name}`);
    go.title = `Go to ${segment.name}`;
    return element("span", "cs-segment", label, go);
  }

  private onChange(input: HTMLInputElement): void {
    const segment = this.masks?.segments.find((one) => one.key === input.value);
    if (input.name === "segment" && segment) segment.shown = input.checked;
    else if (input.name === "all") look.hidden = !input.checked;
    else if (input.name === "fill") look.fill = input.checked;
    else if (input.name === "outline") look.outline = input.checked;
    else if (input.name === "opacity") look.opacity = Number(input.value) / 100;
    this.changed();
  }

  private onClick(target: HTMLElement): void {
    const segment = this.masks?.segments.find((one) => one.key === target.dataset["go"]);
    if (segment) this.chosen(segment);
  }
}

function element(tag: string, name: string, ...children: (Node | string)[]): HTMLElement {
  const made = document.createElement(tag);
  made.className = name;
  made.append(...children);
  return made;
}

function checkbox(name: string, checked: boolean): HTMLInputElement {
  const made = document.createElement("input");
  [made.type, made.name, made.checked] = ["checkbox", name, checked];
  return made;
}

function slider(): HTMLInputElement {
  const made = document.createElement("input");
  [made.type, made.name, made.min, made.max, made.value] = ["range", "opacity", "10", "90", String(Math.round(look.opacity * 100))];
  return made;
}
