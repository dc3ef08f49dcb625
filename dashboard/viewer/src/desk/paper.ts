// What lies under the text of a section: the tint of the AI's sentences, and the lines below those that speak of a
// finding. The text itself stays a plain text field; the layer repeats it, transparent, with the same line breaks.
import { findingOf, currentFinding, show } from "./findings";
import { sentences } from "./sentences";

const TAKEN = new Set(["accepted", "edited"]);

export class Paper {
  private readonly layer = document.createElement("div");
  private readonly chips = document.createElement("div");
  private readonly drafted: Set<string>;
  private readonly links: Record<string, string>;

  constructor(readonly area: HTMLTextAreaElement) {
    this.drafted = new Set(sentences(area.dataset["ai"] ?? "").map((one) => one.text));
    this.links = JSON.parse(area.dataset["links"] ?? "{}") as Record<string, string>;
    this.layer.className = "tint";
    this.layer.dir = "auto";
    this.layer.setAttribute("aria-hidden", "true");
    area.before(this.layer);
    this.chips.className = "said-of small";
    area.parentElement!.after(this.chips);
    area.addEventListener("click", () => this.follow());
    area.addEventListener("scroll", () => (this.layer.scrollTop = area.scrollTop));
    this.paint();
  }

  paint(): void {
    this.grow();
    const text = this.area.value;
    const accepted = "accepted" in this.area.dataset;
    const current = currentFinding()?.dataset["finding"];
    const named = new Set<string>();
    const parts: (string | HTMLElement)[] = [];
    let at = 0;
    let tinted = 0;
    let all = 0;
    for (const one of sentences(text)) {
      const finding = findingOf(this.links[one.text] ?? "");
      const isAi = this.drafted.has(one.text) && !accepted && !TAKEN.has(finding?.dataset["decision"] ?? "");
      all += 1;
      tinted += Number(isAi);
      parts.push(text.slice(at, one.start), this.run(one.text, isAi, finding, current));
      if (finding) named.add(finding.dataset["finding"]!);
      at = one.end;
    }
    this.layer.replaceChildren(...parts, `${text.slice(at)}\u200b`);
    this.label(tinted, all);
    this.name(named, current);
  }

  private run(text: string, isAi: boolean, finding: HTMLElement | null, current: string | undefined): HTMLElement {
    const run = document.createElement("span");
    run.textContent = text;
    run.classList.toggle("ai", isAi);
    run.classList.toggle("linked", finding !== null);
    run.classList.toggle("gone", finding?.dataset["decision"] === "rejected");
    run.classList.toggle("current", finding !== null && finding.dataset["finding"] === current);
    return run;
  }

  private label(tinted: number, all: number): void {
    const section = this.area.closest<HTMLElement>(".section")!;
    section.classList.toggle("ai", tinted > 0);
    const state = section.querySelector<HTMLElement>(".state");
    if (state && this.area.dataset["ai"]) {
      state.className = `pill state ${tinted ? "ai" : "plain"}`;
      const changed = this.area.value !== this.area.dataset["ai"];
      state.textContent = tinted ? (tinted < all ? "partly AI text" : "AI text") : changed ? "edited" : "accepted";
    }
    const changes = section.querySelector<HTMLElement>(".changes");
    if (changes) changes.hidden = this.area.value === this.area.dataset["ai"];
    const accept = section.querySelector<HTMLButtonElement>(".accept-text");
    if (accept) accept.hidden = tinted === 0;
  }

  // the same links for keyboards and screen readers
  private name(ids: Set<string>, current: string | undefined): void {
    const shown = [...ids].map((id) => {
      const chip = document.createElement("button");
      const words = findingOf(id)!.dataset["name"] ?? "";
      chip.type = "button";
      chip.className = "chip";
      chip.textContent = words;
      chip.setAttribute("aria-label", `Show on the images: ${words}`);
      if (id === current) chip.setAttribute("aria-current", "true");
      chip.addEventListener("click", () => show(id));
      return chip;
    });
    // while one of them has the focus they are left alone
    if (!this.chips.contains(document.activeElement) || shown.length !== this.chips.children.length) {
      this.chips.replaceChildren(...shown);
    }
  }

  private follow(): void {
    const { selectionStart: at, selectionEnd: to } = this.area;
    if (at !== to) return; // something is being selected
    const clicked = sentences(this.area.value).find((one) => one.start <= at && at <= one.end);
    const id = clicked ? this.links[clicked.text] : undefined;
    if (id) show(id);
  }

  private grow(): void {
    this.area.style.height = "auto";
    if (this.area.scrollHeight) this.area.style.height = `${this.area.scrollHeight + 2}px`;
  }
}
