import { WAL_COMMITS_MAX } from "../limits.ts";
import { Thread } from "../runtime/thread.ts";
import { WORKERS } from "../workers.ts";

/**
 * Copies SQLite's write-ahead log to the database after every WAL_COMMITS_MAX commits (a checkpoint). That syncs both
 * files, which takes milliseconds on a busy disk: a thread does it, with its own connection.
 *
 * SQLite writes the log from its beginning again only after a checkpoint that reached the end of the log. So there are
 * two passes: commits continue during the first pass, which copies most of the log, and wait during the second, which
 * is short. If the log becomes very long nevertheless, SQLite copies it at a commit (`wal_autocheckpoint`).
 */
export class WalCheckpointer {
  readonly #file: string;
  /** The passes; while `finishing`, commits should wait. */
  state: "idle" | "copying" | "finishing" = "idle";
  readonly #thread = new Thread<string, null>(
    WORKERS.walCheckpoint,
    () => this.#copied(),
    () => void (this.state = "idle"), // Later commits start the next try, and a full disk makes one of them fail.
  );
  #commits = 0;

  /** `file` is the database; a database in memory has no log. */
  constructor(file: string) {
    this.#file = file;
  }

  /** Counts a commit, and starts a checkpoint when it is due. */
  committed(): void {
    this.#commits++;
    if (this.state !== "idle" || this.#file === ":memory:" || this.#commits < WAL_COMMITS_MAX) return;
    this.#commits = 0;
    this.state = "copying";
    this.#thread.ask(this.#file);
  }

  #copied(): void {
    this.state = this.state === "copying" ? "finishing" : "idle";
    if (this.state === "finishing") this.#thread.ask(this.#file);
  }
}
