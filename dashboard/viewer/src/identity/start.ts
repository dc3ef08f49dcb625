// Starts passkeys, forms that are left for the single sign-on, and screen lock inside what was just loaded, and closes the menu of the account.
import { startLeaving } from "./leaving";
import { startLock } from "./lock";
import { startPasskeys } from "./passkey";

document.addEventListener("click", (event) => {
  const menu = document.querySelector<HTMLDetailsElement>("details.account[open]");
  if (menu && !menu.contains(event.target as Node)) menu.open = false;
});
document.addEventListener(
  "keydown",
  (event) => {
    const menu = document.querySelector<HTMLDetailsElement>("details.account[open]");
    if (!menu || event.key !== "Escape") return;
    event.stopImmediatePropagation(); // Escape is also the way back to the worklist
    menu.open = false;
    menu.querySelector("summary")?.focus();
  },
  true,
);

export function startIdentity(loaded: Element): void {
  startPasskeys(loaded);
  startLeaving(loaded);
  startLock();
}
