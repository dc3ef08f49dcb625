// Text that could not be saved before the page was left: an ended session, a lost network, a closed window, a form
// that is left to sign on again (identity/leaving.ts).
//
// It is kept in the sessionStorage of this tab, which no other tab and no later browser session can read, only while
// it is not saved, bound to the reader who typed it, and removed as soon as somebody else is logged in here. The screen
// lock leaves the page as it is, so that this is the exception.
const PREFIX = "firstread:unsaved:";

export interface Unsaved {
  readonly reader: string;
  readonly version: string;
  readonly sections: Record<string, string>;
}

export function keep(study: string, text: Unsaved): void {
  try {
    sessionStorage.setItem(PREFIX + study, JSON.stringify(text));
  } catch {
    // full or forbidden: the text is still on the page
  }
}

export function forget(study: string): void {
  sessionStorage.removeItem(PREFIX + study);
}

export function kept(study: string, reader: string): Unsaved | null {
  for (const key of Object.keys(sessionStorage).filter((one) => one.startsWith(PREFIX))) {
    if (parse(key)?.reader !== reader) sessionStorage.removeItem(key);
  }
  return parse(PREFIX + study);
}

function parse(key: string): Unsaved | null {
  try {
    return JSON.parse(sessionStorage.getItem(key) ?? "null") as Unsaved | null;
  } catch {
    return null;
  }
}
