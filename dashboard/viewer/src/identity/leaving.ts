// A form that is left for the single sign-on, to prove who signs: what was typed waits in this tab for the return.
//
// It is kept as text that could not be saved is (desk/unsaved.ts): for its reader alone, and until it is put back.
import { forget, keep, kept } from "../desk/unsaved";

type Field = HTMLInputElement | HTMLTextAreaElement;

export function startLeaving(loaded: Element): void {
  const forms = [...loaded.querySelectorAll<HTMLFormElement>("form[data-reader]")];
  if (loaded.matches("form[data-reader]")) forms.push(loaded as HTMLFormElement);
  for (const form of forms) {
    form.querySelector("a[data-leaves]")?.addEventListener("click", () => store(form));
    offer(form);
  }
}

function store(form: HTMLFormElement): void {
  const typed = fields(form).filter((one) => one.value !== "");
  if (!typed.length) return;
  const sections = Object.fromEntries(typed.map((one) => [one.name, one.value]));
  keep(place(), { reader: form.dataset["reader"] ?? "", version: version(form), sections });
}

// text typed over another version of the report is put back only at a click
function offer(form: HTMLFormElement): void {
  const text = kept(place(), form.dataset["reader"] ?? "");
  if (!text) return;
  const changed = fields(form).filter((one) => one.name in text.sections && one.value !== text.sections[one.name]);
  if (!changed.length) return forget(place());
  const put = (): void => {
    for (const one of changed) one.value = text.sections[one.name]!;
    forget(place());
  };
  const notice = document.createElement("div");
  notice.className = "notice info";
  notice.setAttribute("role", "status");
  if (text.version === version(form)) {
    put();
    notice.append("What you typed before you confirmed who you are is here again.");
  } else {
    notice.append("The report changed since you typed here. Your text is kept. ");
    const again = document.createElement("button");
    again.type = "button";
    again.className = "small";
    again.textContent = "Put it back";
    again.addEventListener("click", () => {
      put();
      notice.remove();
    });
    notice.append(again);
  }
  form.before(notice);
}

function fields(form: HTMLFormElement): Field[] {
  const text = (one: Element): one is Field =>
    one instanceof HTMLTextAreaElement || (one instanceof HTMLInputElement && one.type === "text");
  return [...form.elements].filter(text).filter((one) => one.name !== "" && !one.readOnly);
}

function version(form: HTMLFormElement): string {
  return form.querySelector<HTMLInputElement>("input[name=version]")?.value ?? "";
}

function place(): string {
  return `form:${location.pathname}${location.search}`;
}
