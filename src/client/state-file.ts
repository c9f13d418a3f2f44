import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import type { ClientState, StateStore } from "./request.ts";

/** The folder for states: `$XDG_STATE_HOME/heartline`, by default below the home folder. */
export function stateFolder(): string {
  return join(process.env.XDG_STATE_HOME || join(homedir(), ".local", "state"), "heartline");
}

/**
 * The state of one user at one server, in a file that nobody else can read: it holds the session's token, and requests
 * that were not answered. Each save replaces the whole file, so that a killed program leaves the old or the new one.
 */
export class StateFile implements StateStore {
  readonly #folder: string;
  readonly #file: string;

  constructor(folder: string, user: string, host: string, port: number) {
    this.#folder = folder;
    this.#file = join(folder, `${encodeURIComponent(`${user}@${host}:${port}`)}.json`);
  }

  /** The last state; null when there is none, or none that can be read. */
  load(): ClientState | null {
    try {
      const state = JSON.parse(readFileSync(this.#file, "utf8")) as ClientState;
      const isState =
        /^[\w-]{22,64}$/.test(state.token) && Number.isSafeInteger(state.received) && Array.isArray(state.unanswered);
      return isState ? state : null;
    } catch {
      return null;
    }
  }

  save(state: ClientState): void {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    const draft = `${this.#file}.${process.pid}`;
    writeFileSync(draft, JSON.stringify(state), { mode: 0o600 });
    renameSync(draft, this.#file);
  }
}
