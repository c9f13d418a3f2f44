import type { Store } from "../storage/store.ts";

/** Whether new sessions can begin, and the reason when they cannot. */
export class Readiness {
  /** `recovering` until the ports are open; `draining` from the beginning of the end. */
  state: "recovering" | "serving" | "draining" = "recovering";
  #store: Store | null = null;

  /** The ports are open. */
  serve(store: Store): void {
    this.#store = store;
    this.state = "serving";
  }

  /** Null when new sessions can begin; else the reason, in words for operators. */
  get obstacle(): string | null {
    if (this.state !== "serving") return this.state;
    const writeError = this.#store?.writeError ?? null;
    return writeError === null ? null : `disk: ${writeError}`;
  }
}
