import { WAL_COMMITS_MAX } from "../limits.ts";
import { Thread } from "../runtime/thread.ts";

/**
 * Copies SQLite's write-ahead log to the database after every WAL_COMMITS_MAX commits (a checkpoint). That syncs both
 * files, which takes milliseconds on a busy disk: a thread does it, with a connection of its own.
 *
 * SQLite writes the log from its beginning again only when a checkpoint has reached its end. So there are two passes:
 * commits go on during the first, which copies most of it, and wait during the second, which is short. A log that has
 * become very long all the same SQLite copies itself, at a commit.
 */
export class WalCheckpointer {
  readonly #file: string;
  /** In the last state transactions should wait. */
  state: "idle" | "copying" | "finishing" = "idle";
  readonly #thread = new Thread<string, null>(
    new URL("./wal-checkpoint-worker.ts", import.meta.url),
    () => this.#copied(),
    () => void (this.state = "idle"), // What a full disk did not take is tried again, and reported by a commit.
  );
  #commits = 0;

  /** Of that database; one in memory has no log. */
  constructor(file: string) {
    this.#file = file;
  }

  /** One more commit is in the log. */
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
