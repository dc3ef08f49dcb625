// The queue is shown live without a row moving: known rows are filled anew, gone ones fade, new ones are announced.
const EVERY_MS = 3000;

export function startQueue(loaded: Element): void {
  const form = loaded.matches("#queue") ? loaded : loaded.querySelector("#queue");
  if (!(form instanceof HTMLFormElement) || form.dataset["live"]) return;
  form.dataset["live"] = "yes";
  const look = async (): Promise<void> => {
    if (!form.isConnected) return;
    if (!document.hidden) await refresh(form);
    setTimeout(() => void look(), EVERY_MS);
  };
  setTimeout(() => void look(), EVERY_MS);
}

async function refresh(form: HTMLFormElement): Promise<void> {
  const said = form.querySelector("#queue-live")!;
  try {
    const answer = await fetch(form.dataset["rows"]!, { headers: { "HX-Request": "true" } });
    if (!answer.ok) throw new Error(String(answer.status));
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    takeHead(form, fresh);
    takeRows(form, fresh);
    said.textContent = `Live, ${new Date().toLocaleTimeString([], { hour12: false })}`;
  } catch (error) {
    const ended = error instanceof Error && error.message === "401";
    said.textContent = ended ? "Not live: your session has ended" : "Not live: the dashboard does not answer";
  }
}

function takeHead(form: HTMLFormElement, fresh: Document): void {
  const head = fresh.querySelector("#queue-head");
  if (head) form.querySelector("#queue-head")?.replaceWith(document.adoptNode(head));
}

function takeRows(form: HTMLFormElement, fresh: Document): void {
  const shown = [...form.querySelectorAll<HTMLTableRowElement>("tr[data-row]")];
  const known = new Set(shown.map((row) => row.dataset["row"]));
  for (const row of shown) {
    const now = fresh.querySelector<HTMLTableRowElement>(`tr[data-row="${row.dataset["row"]!}"]`);
    if (now) fill(row, now);
    else leave(row);
  }
  const added = [...fresh.querySelectorAll<HTMLTableRowElement>("tr[data-row]")];
  const count = added.filter((row) => !known.has(row.dataset["row"])).length;
  const news = document.querySelector<HTMLElement>("#queue-news");
  if (!news) return;
  news.hidden = count === 0;
  const words = `${count} new in the queue.`;
  const text = news.querySelector("span")!;
  if (text.textContent !== words) text.textContent = words;
}

// The checkbox stays as the person left it, and so does a button that has the focus.
function fill(row: HTMLTableRowElement, now: HTMLTableRowElement): void {
  row.classList.remove("gone");
  const changed = row.className.replace(" changed", "") !== now.className;
  for (const [index, cell] of [...now.cells].entries()) {
    const old = row.cells[index];
    if (index === 0 || !old || old.innerHTML === cell.innerHTML) continue;
    if (old.contains(document.activeElement) && !changed) continue;
    old.replaceChildren(...[...cell.childNodes].map((node) => document.adoptNode(node)));
  }
  if (changed) row.className = `${now.className} changed`;
}

function leave(row: HTMLTableRowElement): void {
  if (row.classList.contains("gone")) return;
  row.classList.add("gone");
  const box = row.querySelector<HTMLInputElement>("input[type=checkbox]");
  if (box) box.checked = false;
  const why = row.querySelector(".why");
  if (why) why.textContent = "left the queue";
}
