import { accessSync, constants, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import type { ClientState, StateStore } from "./request.ts";

/** The folder for states: `$XDG_STATE_HOME/heartline`, below the home folder when that is not set or no full path. */
export function stateFolder(): string {
  const { XDG_STATE_HOME: given = "" } = process.env;
  return join(isAbsolute(given) ? given : join(homedir(), ".local", "state"), "heartline");
}

/**
 * The state of one user at one server, in a file that nobody else can read: it holds the session's token, and requests
 * that were not answered. Each save replaces the whole file, so that a killed program leaves the old or the new one.
 */
export class StateFile implements StateStore {
  readonly #file: string;
  readonly #onFault: (why: string) => void;
  #faulty = false;

  /** Makes the folder; throws the system's error when it cannot be used. `onFault` hears once that a save failed. */
  constructor(folder: string, user: string, host: string, port: number, onFault: (why: string) => void) {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    accessSync(folder, constants.W_OK);
    this.#file = join(folder, `${encodeURIComponent(`${user}@${host}:${port}`)}.json`);
    this.#onFault = onFault;
  }

  /** The last state; null when there is none, or none that can be read. */
  load(): ClientState | null {
    try {
      const state: unknown = JSON.parse(readFileSync(this.#file, "utf8"));
      return isState(state) ? state : null;
    } catch {
      return null;
    }
  }

  save(state: ClientState): void {
    const draft = `${this.#file}.${process.pid}`;
    try {
      writeFileSync(draft, JSON.stringify(state), { mode: 0o600 });
      renameSync(draft, this.#file);
    } catch (error) {
      if (!this.#faulty) this.#onFault((error as Error).message);
      this.#faulty = true;
    }
  }
}

/** Whether a client can go on from it: somebody may have written into the file. */
function isState(value: unknown): value is ClientState {
  const { token, received, unanswered } = value as { [key in keyof ClientState]: unknown };
  const isRequest = ({ line, position }: Record<string, unknown>): boolean =>
    typeof line === "string" && /^[^\n]+$/.test(line) && isPosition(position);
  const isToken = typeof token === "string" && /^[\w-]{22,64}$/.test(token);
  return isToken && isPosition(received) && Array.isArray(unanswered) && unanswered.every(isRequest);
}

function isPosition(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
