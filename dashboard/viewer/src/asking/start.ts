// Questions to the model: the image on screen goes along when the reader wants it, and q leads to the field.
import { selectTab } from "../desk/tabs";

let isListening = false;

interface Shown {
  uid: string;
  frame: string;
  place: string;
}

export function startAsking(loaded: Element): void {
  if (!loaded.matches("#asking") && !loaded.querySelector("#asking")) return;
  if (!isListening) {
    isListening = true;
    listen();
  }
  name();
}

// the viewport writes on each pane which image it shows
function shown(): Shown | null {
  const panes = [...document.querySelectorAll<HTMLElement>("#viewer [data-uid][data-frame]")];
  const pane = panes.find((one) => one.classList.contains("active")) ?? panes[0];
  const { uid, frame, index } = pane?.dataset ?? {};
  return uid && frame ? { uid, frame, place: index ? `(slice ${Number(index) + 1})` : "" } : null;
}

function form(): HTMLFormElement | null {
  return document.querySelector<HTMLFormElement>("#asking form.ask");
}

function name(): void {
  const place = form()?.querySelector<HTMLElement>("[data-shown-image]");
  const box = form()?.querySelector<HTMLInputElement>("input[name=about]");
  if (!place || !box) return;
  const image = shown();
  box.disabled = image === null;
  if (!image) box.checked = false;
  if (place.textContent !== (image?.place ?? "")) place.textContent = image?.place ?? "";
}

function listen(): void {
  // what is on screen changes while the reader types: it counts at the moment of asking
  document.body.addEventListener("htmx:configRequest", (event) => {
    const { elt, parameters } = (event as CustomEvent<{ elt: Element; parameters: FormData | Record<string, unknown> }>).detail;
    const image = shown();
    if (elt !== form() || !image) return;
    put(parameters, "sop_instance_uid", image.uid);
    put(parameters, "frame_number", image.frame);
  });
  document.addEventListener("focusin", (event) => (event.target as Element).closest("#asking") && name());
  document.addEventListener("desk:tab", name);
  document.addEventListener("keydown", (event) => {
    const target = event.target as HTMLElement;
    const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey && !event.defaultPrevented;
    if (event.key !== "q" || !isPlain || typing(target) || document.querySelector("dialog[open]")) return;
    const field = document.querySelector<HTMLTextAreaElement>("#question");
    if (!field) return;
    event.preventDefault();
    selectTab("evidence");
    field.focus();
    field.scrollIntoView({ block: "nearest" });
  });
}

function put(parameters: FormData | Record<string, unknown>, key: string, value: string): void {
  if (parameters instanceof FormData) parameters.set(key, value);
  else parameters[key] = value;
}

function typing(target: HTMLElement): boolean {
  return target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
}
