// Buttons above the images and below them; every one has a key.
import { ICONS } from "./icons";
import { invert, mirror, rotate } from "./moves";
import type { Stage } from "./stage";
import type { Choice } from "./tools";

interface Button {
  name: string;
  title: string;
  press: (stage: Stage) => void;
  isOn?: (stage: Stage) => boolean;
}

const tool = (choice: Choice, title: string): Button => ({ name: choice, title, press: (stage) => stage.choose(choice), isOn: (stage) => stage.hands.chosen === choice });

const BUTTONS: readonly (Button | null)[] = [
  tool("scroll", "Scroll with the left button"),
  tool("window", "Window with the left button (right drag always does)"),
  tool("pan", "Move with the left button (Shift drag always does)"),
  tool("zoom", "Zoom with the left button (Ctrl drag always does)"),
  null,
  tool("LENGTH", "Length (l)"),
  tool("ANGLE", "Angle (g)"),
  tool("RECTANGLE", "Rectangle: mean and standard deviation (u)"),
  tool("ELLIPSE", "Ellipse: mean and standard deviation (o)"),
  tool("PROBE", "Probe: value at a point (j)"),
  tool("ARROW", "Arrow with words (t)"),
  null,
  { name: "invert", title: "Invert (i)", press: (stage) => invert(stage.active) },
  { name: "flip", title: "Mirror left and right (h)", press: (stage) => mirror(stage.active) },
  { name: "rotate", title: "Turn by 90° (v)", press: (stage) => rotate(stage.active) },
  { name: "reset", title: "Reset zoom, position and inversion (0)", press: (stage) => stage.resetView() },
  null,
  { name: "cine", title: "Cine (c)", press: (stage) => stage.toggleCine(), isOn: (stage) => stage.cine.isRunning },
  { name: "layout", title: "Next layout: one, two, four images (y)", press: (stage) => stage.nextLayout() },
  { name: "mpr", title: "Axial, sagittal and coronal reformats (m)", press: (stage) => void stage.toggleReformat(), isOn: (stage) => stage.isReformatted },
  { name: "link", title: "Scroll together by position (k)", press: (stage) => stage.toggleLink(), isOn: (stage) => stage.isLinked },
];

export class Toolbar {
  readonly top = document.createElement("div");
  readonly bottom = document.createElement("div");
  private readonly message = document.createElement("p");
  private readonly presets = document.createElement("div");
  private readonly slider = document.createElement("input");
  private readonly speed = document.createElement("input");
  private readonly priors = document.createElement("span");
  private readonly buttons: [HTMLButtonElement, Button][] = [];
  private timer = 0;

  constructor(private readonly stage: Stage) {
    this.top.className = "cs-tools";
    this.top.setAttribute("role", "toolbar");
    this.top.setAttribute("aria-label", "Image tools");
    for (const one of BUTTONS) this.top.append(one ? this.button(one) : Object.assign(document.createElement("span"), { className: "cs-gap" }));
    this.speed.className = "cs-speed";
    Object.assign(this.speed, { type: "number", min: "1", max: "60", value: String(stage.cine.speed), title: "Cine: images a second" });
    this.speed.setAttribute("aria-label", "Cine, images a second");
    this.speed.addEventListener("change", () => stage.cine.setSpeed(Number(this.speed.value), stage.active));
    this.priors.className = "cs-priors";
    this.top.append(this.speed, this.priors);
    this.message.className = "cs-message";
    this.message.setAttribute("role", "status");
    this.bottom.className = "cs-bottom";
    Object.assign(this.slider, { type: "range", min: "1", max: "1", value: "1" });
    this.slider.setAttribute("aria-label", "Image");
    this.slider.addEventListener("input", () => stage.goTo(Number(this.slider.value) - 1));
    this.presets.className = "cs-presets";
    this.presets.setAttribute("role", "group");
    this.presets.setAttribute("aria-label", "Windows");
    this.bottom.append(this.slider, this.presets, this.message);
  }

  private button(one: Button): HTMLButtonElement {
    const made = document.createElement("button");
    made.type = "button";
    made.className = "cs-tool";
    made.title = one.title;
    made.dataset["tool"] = one.name;
    made.setAttribute("aria-label", one.title);
    made.innerHTML = ICONS[one.name] ?? one.name;
    made.addEventListener("click", () => {
      one.press(this.stage);
      made.blur(); // keys belong to the images again
    });
    this.buttons.push([made, one]);
    return made;
  }

  refresh(): void {
    if (!this.stage.active || !this.stage.scene) return;
    for (const [made, one] of this.buttons) if (one.isOn) made.setAttribute("aria-pressed", String(one.isOn(this.stage)));
    this.presets.replaceChildren(...this.stage.presets.map((one, at) => this.preset(one.name, at)));
    this.showPriors();
    this.position();
  }

  private preset(name: string, at: number): HTMLElement {
    const made = document.createElement("button");
    [made.type, made.className, made.title] = ["button", "preset", `${name} (${at + 1})`];
    made.append(Object.assign(document.createElement("kbd"), { textContent: String(at + 1) }), name);
    made.addEventListener("click", () => {
      this.stage.preset(at);
      made.blur();
    });
    return made;
  }

  private showPriors(): void {
    if (this.priors.childElementCount) return;
    this.priors.replaceChildren(
      ...this.stage.scene.priors.slice(0, 3).map((one) => {
        const made = document.createElement("button");
        [made.type, made.className, made.textContent] = ["button", "small", `Prior ${one.day}`];
        made.title = `${one.modalities} ${one.description} beside, scrolled together (p)`.trim();
        made.addEventListener("click", () => void this.stage.togglePrior(one.study_id));
        return made;
      }),
    );
  }

  position(): void {
    const { active } = this.stage;
    if (!active.stack) return;
    this.slider.max = String(active.stack.count);
    this.slider.value = String(active.wanted + 1);
    this.slider.disabled = active.stack.count === 1 || active.plane !== null;
  }

  say(text: string): void {
    this.message.textContent = text;
    window.clearTimeout(this.timer);
    if (text) this.timer = window.setTimeout(() => (this.message.textContent = ""), 12_000);
  }
}
