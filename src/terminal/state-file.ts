import { Database } from "bun:sqlite";
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import type { ClientState, StateStore } from "../client/session.ts";

/** The folder for states: `$XDG_STATE_HOME/heartline`, below the home folder when that is not set or no full path. */
export function stateFolder(): string {
  const { XDG_STATE_HOME: given = "" } = process.env;
  return join(isAbsolute(given) ? given : join(homedir(), ".local", "state"), "heartline");
}

/** How often the owner of a state checks whether another process wants it, and that one whether it is free. */
const WANTED_MS = 250;
const FREE_MS = 50;
/** How long the owner may take to leave. */
const HANDOVER_MS = 10_000;

/** Another process owns the state and does not leave. */
export class StateInUse extends Error {}

/**
 * The state of one user at one server, in a file that nobody else can read: it holds the session's token, and requests
 * that were not answered. Each save replaces the whole file, so that a killed program leaves the old or the new one.
 * It is not synced: it survives the program, but a power cut may bring an older one back, and with it messages twice.
 *
 * With `claim`, one process at a time owns the state. A process that waits for it creates a file; the owner then ends
 * its session and exits, so that everything it has shown is saved before the other one logs in.
 */
export class StateFile implements StateStore {
  readonly #file: string;
  /** Name of the file in earlier versions, which did not normalize hosts: `[::1]` and `::1` had one each. */
  readonly #formerFile: string;
  /** An empty database, locked: the kernel releases the lock when the process ends, also after SIGKILL. */
  #lock: Database | null = null;
  #watch: Timer | null = null;
  readonly #onFault: (why: string) => void;
  #faulty = false;

  /**
   * Makes the folder; throws the system's error when it cannot be used. `onFault` is called once when a save fails;
   * `typedHost` is the host as the user wrote it.
   */
  constructor(
    folder: string,
    user: string,
    host: string,
    port: number,
    onFault: (why: string) => void,
    typedHost = host,
  ) {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    accessSync(folder, constants.W_OK);
    const fileFor = (name: string): string => join(folder, `${encodeURIComponent(`${user}@${name}:${port}`)}.json`);
    this.#file = fileFor(host);
    this.#formerFile = fileFor(typedHost);
    this.#onFault = onFault;
  }

  /**
   * Makes this process the owner; `onWanted` is called when another one wants the state. Rejects with StateInUse when
   * the owner does not leave.
   */
  async claim(onWanted: () => void): Promise<void> {
    const [file, wanted] = [`${this.#file}.lock`, `${this.#file}.wanted`];
    closeSync(openSync(file, "a", 0o600));
    const lock = new Database(file);
    const startMs = performance.now();
    for (; !isLocked(lock); await Bun.sleep(FREE_MS)) {
      const isLate = performance.now() - startMs > HANDOVER_MS;
      if (!isLate) writeFileSync(wanted, "", { mode: 0o600 });
      else {
        rmSync(wanted, { force: true });
        lock.close();
        throw new StateInUse("another client of this user on this machine does not leave");
      }
    }
    rmSync(wanted, { force: true });
    this.#lock = lock;
    if (!existsSync(this.#file) && existsSync(this.#formerFile)) renameSync(this.#formerFile, this.#file);
    this.#watch = setInterval(() => {
      if (!existsSync(wanted)) return;
      this.#stopWatching();
      onWanted();
    }, WANTED_MS);
    this.#watch.unref();
  }

  /** Ends the claim. */
  release(): void {
    this.#stopWatching();
    this.#lock?.close();
    this.#lock = null;
  }

  #stopWatching(): void {
    if (this.#watch !== null) clearInterval(this.#watch);
    this.#watch = null;
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

/** Locks the database until it is closed; false when another process has done that. */
function isLocked(database: Database): boolean {
  try {
    database.run("BEGIN EXCLUSIVE");
    return true;
  } catch (error) {
    if ((error as { code?: string }).code === "SQLITE_BUSY") return false;
    throw error;
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
