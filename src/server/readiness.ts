import type { Store } from "../storage/store.ts";

/**
 * - `recovering`: the data folder is being opened.
 * - `spare`: another server of the cluster owns the shard. The ports are open, and clients are relayed to it.
 * - `serving`: the ports are open.
 * - `draining`: sessions end one after another, and no new one begins.
 * - `stopping`: the ports are closed. Last lines are written, and the store is closed.
 */
export type ServerState = "recovering" | "spare" | "serving" | "draining" | "stopping";

const TRANSITIONS: Record<ServerState, readonly ServerState[]> = {
  recovering: ["spare", "serving"],
  spare: ["recovering"],
  serving: ["draining", "stopping"],
  draining: ["stopping"],
  stopping: [],
};

/** The state of the server, and from it whether new sessions can begin, and the reason when they cannot. */
export class Readiness {
  #state: ServerState = "recovering";
  #store: Store | null = null;
  /** A living owner of the shard is known, to which a spare relays clients. */
  hasOwner = false;
  /** The engine of the cluster's log, while it does not answer; null otherwise, and without a cluster. */
  engineAway: string | null = null;
  readonly #changed: (state: ServerState) => void;

  constructor(changed: (state: ServerState) => void = () => {}) {
    this.#changed = changed;
  }

  get state(): ServerState {
    return this.#state;
  }

  /** False when the server cannot change from its state to that one: nothing happens. */
  enter(state: ServerState): boolean {
    if (!TRANSITIONS[this.#state].includes(state)) return false;
    this.#state = state;
    this.#changed(state);
    return true;
  }

  /** The ports are open. */
  serve(store: Store): void {
    this.#store = store;
    this.enter("serving");
  }

  /** Null when new sessions can begin; else the reason, in words for operators. */
  get obstacle(): string | null {
    if (this.#state === "stopping") return "draining";
    if (this.engineAway !== null) return `cluster: ${this.engineAway} does not answer`;
    if (this.#state === "spare") return this.hasOwner ? null : "cluster: no owner";
    if (this.#state !== "serving") return this.#state;
    const writeError = this.#store?.writeError ?? null;
    return writeError === null ? null : `disk: ${writeError}`;
  }
}
