// Starts passkeys and screen lock inside what was just loaded.
import { startLock } from "./lock";
import { startPasskeys } from "./passkey";

export function startIdentity(loaded: Element): void {
  startPasskeys(loaded);
  startLock();
}
