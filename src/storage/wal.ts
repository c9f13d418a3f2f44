import { WAL_COMMITS_MAX } from "../limits.ts";
import { Thread } from "../runtime/thread.ts";

/**
 * SQLite's write-ahead log, which is copied to the database now and then. That syncs both, which takes milliseconds on
 * a busy disk: a thread does it, with a connection of its own. Who begins a transaction meanwhile keeps SQLite from
 * writing the log from its beginning again, and does no other harm: a log that has become long SQLite copies itself, at
 * a commit.
 */
export class Wal {
  readonly #file: string;
  #isCopied = false;
  /** What a full disk did not take is tried again, and told when a commit finds it so. */
  readonly #over = (): void => void (this.#isCopied = false);
  readonly #thread = new Thread<string, null>(new URL("./wal-worker.ts", import.meta.url), this.#over, this.#over);
  #commits = 0;

  /** Of that database; one in memory has none. */
  constructor(file: string) {
    this.#file = file;
  }

  /** It is being copied, and transactions should wait. */
  isCopied(): boolean {
    return this.#isCopied;
  }

  /** There is one commit more in it. */
  committed(): void {
    if (this.#isCopied || this.#file === ":memory:" || ++this.#commits < WAL_COMMITS_MAX) return;
    this.#commits = 0;
    this.#isCopied = true;
    this.#thread.ask(this.#file);
  }
}
