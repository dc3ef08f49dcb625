// Slices already fetched, kept in memory only: the server forbids storing patient images on disk.
const MOST = 300;

export class SliceCache {
  private readonly kept = new Map<string, Promise<string | null>>();

  get(url: string): Promise<string | null> {
    const known = this.kept.get(url);
    if (known) {
      this.kept.delete(url);
      this.kept.set(url, known);
      return known;
    }
    const fetched = this.fetch(url);
    this.kept.set(url, fetched);
    void fetched.then((source) => {
      if (source === null) this.kept.delete(url); // try again next time
    });
    this.trim();
    return fetched;
  }

  preload(url: string): void {
    void this.get(url);
  }

  private async fetch(url: string): Promise<string | null> {
    try {
      const response = await fetch(url, { credentials: "same-origin" });
      if (response.redirected) location.reload(); // the session has ended: show the login page
      return response.ok ? URL.createObjectURL(await response.blob()) : null;
    } catch {
      return null;
    }
  }

  private trim(): void {
    for (const [url, source] of this.kept) {
      if (this.kept.size <= MOST) break;
      this.kept.delete(url);
      void source.then((address) => address && URL.revokeObjectURL(address));
    }
  }
}
