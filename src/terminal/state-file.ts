import { Database } from "bun:sqlite";
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import { fileState } from "../client/file-state.ts";
import type { ClientState, StateStore } from "../client/session.ts";

/** `$XDG_STATE_HOME/heartline`; `~/.local/state/heartline` when that is not set or is a relative path. */
export function stateFolder(): string {
  const { XDG_STATE_HOME: base = "" } = process.env;
  return join(isAbsolute(base) ? base : join(homedir(), ".local", "state"), "heartline");
}

/** How often the owner of a state checks for a request to hand it over, and the other process for its release. */
const REQUEST_CHECK_MS = 250;
const RELEASE_CHECK_MS = 50;
/** How long the owner may take to release the state. */
const HANDOVER_MS = 10_000;

/** Another process owns the state and does not release it. */
export class StateInUse extends Error {}

/**
 * The state of one user at one server, in a file with mode 0600: it contains the token of the session and the requests
 * without a reply. Each save replaces the whole file, so a killed program leaves the old or the new state. The file is
 * not synced: after a power cut an older state may return, and messages may be shown twice.
 *
 * With `claim`, one process at a time owns the state. A process that wants it creates a request file. The owner then
 * ends its session and exits: everything it has shown is saved before the other process logs in.
 */
export class StateFile implements StateStore {
  readonly #file: string;
  /** The file of earlier versions, which did not normalize hosts: `[::1]` and `::1` had different files. */
  readonly #legacyFile: string;
  /** An empty SQLite database, locked: the kernel releases the lock when the process ends, also by SIGKILL. */
  #lock: Database | null = null;
  /** Checks for the request file of another process. */
  #requestCheck: Timer | null = null;
  readonly #onSaveError: (why: string) => void;
  #hasSaveError = false;

  /**
   * Creates the folder; throws the system's error when it cannot be used. `onSaveError` is called for the first save
   * that fails; `typedHost` is the host as the user wrote it.
   */
  constructor(
    folder: string,
    user: string,
    host: string,
    port: number,
    onSaveError: (why: string) => void,
    typedHost = host,
  ) {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    accessSync(folder, constants.W_OK);
    const fileFor = (name: string): string => join(folder, `${encodeURIComponent(`${user}@${name}:${port}`)}.json`);
    this.#file = fileFor(host);
    this.#legacyFile = fileFor(typedHost);
    this.#onSaveError = onSaveError;
  }

  /**
   * Makes this process the owner. `onWanted` is called when another process wants the state. Rejects with StateInUse
   * when the present owner does not release it.
   */
  async claim(onWanted: () => void): Promise<void> {
    const [lockFile, requestFile] = [`${this.#file}.lock`, `${this.#file}.wanted`];
    closeSync(openSync(lockFile, "a", 0o600));
    const lock = new Database(lockFile);
    const startMs = performance.now();
    for (; !tryLock(lock); await Bun.sleep(RELEASE_CHECK_MS)) {
      const isLate = performance.now() - startMs > HANDOVER_MS;
      if (!isLate) writeFileSync(requestFile, "", { mode: 0o600 });
      else {
        rmSync(requestFile, { force: true });
        lock.close();
        throw new StateInUse("another client of this user on this machine does not leave");
      }
    }
    rmSync(requestFile, { force: true });
    this.#lock = lock;
    if (!existsSync(this.#file) && existsSync(this.#legacyFile)) renameSync(this.#legacyFile, this.#file);
    this.#requestCheck = setInterval(() => {
      if (!existsSync(requestFile)) return;
      this.#stopRequestCheck();
      onWanted();
    }, REQUEST_CHECK_MS);
    this.#requestCheck.unref();
  }

  /** Ends the claim. */
  release(): void {
    this.#stopRequestCheck();
    this.#lock?.close();
    this.#lock = null;
  }

  #stopRequestCheck(): void {
    if (this.#requestCheck !== null) clearInterval(this.#requestCheck);
    this.#requestCheck = null;
  }

  /** The saved state; null when there is none or it is invalid. */
  load(): ClientState | null {
    try {
      return fileState(this.#file).load();
    } catch {
      return null;
    }
  }

  save(state: ClientState): void {
    try {
      fileState(this.#file).save(state);
    } catch (error) {
      if (!this.#hasSaveError) this.#onSaveError((error as Error).message);
      this.#hasSaveError = true;
    }
  }
}

/** Locks the database until it is closed; returns false when another process has locked it. */
function tryLock(database: Database): boolean {
  try {
    database.run("BEGIN EXCLUSIVE");
    return true;
  } catch (error) {
    if ((error as { code?: string }).code === "SQLITE_BUSY") return false;
    throw error;
  }
}
