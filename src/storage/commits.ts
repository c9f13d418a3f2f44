import type { Database } from "bun:sqlite";
import { STORE_CHANGES_HELD } from "../limits.ts";
import type { Compaction } from "./compaction.ts";
import type { PendingChanges } from "./pending-changes.ts";
import { SQL } from "./sql.ts";
import type { TurnLog } from "./turn-log.ts";
import type { WalCheckpointer } from "./wal-checkpointer.ts";

/** Counts commits for checkpoints of SQLite's write-ahead log; commits should wait while `state` is `finishing`. */
export type Checkpoints = Pick<WalCheckpointer, "state" | "committed">;

/**
 * When the pending changes are committed: when there are enough of them, when the journal has begun a new segment, and
 * when compaction has moved everything that it needs. What a commit contains is not decided here (tables.ts).
 */
export class Commits {
  /** Why the last commit failed; null when it did not. */
  error: unknown = null;
  readonly #database: Database;
  readonly #changes: PendingChanges;
  readonly #journal: TurnLog | null;
  readonly #compaction: Compaction;
  readonly #checkpoints: Checkpoints;
  /** Durability `power`: the journal is synced before each commit. */
  readonly #power: boolean;
  #isDue = false;
  /** The newest segment of the journal at the last commit. */
  #committedSegment = 0;

  constructor(
    database: Database,
    changes: PendingChanges,
    journal: TurnLog | null,
    compaction: Compaction,
    checkpoints: Checkpoints,
    power: boolean,
  ) {
    this.#database = database;
    this.#changes = changes;
    this.#journal = journal;
    this.#compaction = compaction;
    this.#checkpoints = checkpoints;
    this.#power = power;
  }

  /** Commits should wait: the write-ahead log is being copied for the second time. */
  get isBusy(): boolean {
    return this.#checkpoints.state === "finishing";
  }

  /** The next end of a turn commits. */
  makeDue(): void {
    this.#isDue = true;
  }

  /** Called about once a second: makes a commit due after a failed one and, without a journal, after any change. */
  retry(): void {
    this.#isDue ||= this.error !== null || (this.#journal === null && !this.#changes.isEmpty);
  }

  /**
   * After the record of a turn is written. `number` is the highest message or session number. True when `error` may
   * have changed. The changes of each turn are executed in it, so that no read or commit has to execute those of many.
   */
  commitIfDue(number: number): boolean {
    const { error } = this;
    const journal = this.#journal;
    // After a failed commit only `retry` makes the next one due: it executes all changes again, too much for each turn.
    if (journal !== null && journal.newest !== this.#committedSegment && this.error === null) this.#isDue = true;
    const { fill } = this.#changes;
    if (this.isBusy && fill < STORE_CHANGES_HELD) return false;
    const isDue = this.#isDue || (this.error === null && fill >= 1);
    if (isDue) this.commit(number);
    else if (this.error === null) this.#execute();
    return isDue || this.error !== error;
  }

  #execute(): void {
    try {
      this.#changes.execute();
    } catch (error) {
      this.error = error;
    }
  }

  /** Commits all pending changes; see `error`. */
  commit(number: number): void {
    this.#isDue = false;
    const sequence = this.#compaction.movedSequence;
    const segment = this.#journal?.newest ?? 0;
    try {
      this.#changes.commit(() => {
        if (this.#power && this.#journal?.isSynced === false) this.#journal.syncNow();
        this.#database.query(SQL.updateProgress).run(sequence, this.#journal?.sequence ?? 0, number);
      });
      this.#checkpoints.committed();
      this.error = null;
      this.#committedSegment = segment;
      this.#compaction.committed(sequence);
    } catch (error) {
      this.error = error;
    }
  }
}
