import type { MoveOldMessages } from "../chat/store.ts";
import { MOVED_BYTES_PER_TURN } from "../limits.ts";
import type { DataFolder } from "./data-folder.ts";
import type { TurnLog } from "./turn-log.ts";

/** Compaction has bytes of its own in each turn: else other moves could stop it, and the journal would only grow. */
const BYTES_PER_TURN = MOVED_BYTES_PER_TURN / 2;

/**
 * Frees old segments of the journal, in three steps: what only they have moves to the mailboxes, in as many turns as
 * it takes; a commit makes that durable; then the journal uses the segments again.
 */
export class Compaction {
  readonly #journal: TurnLog | null;
  readonly #folder: DataFolder | null;
  /** The segments that are being freed: the last message number and the last record in them. */
  #old: { number: number; sequence: number } | null = null;
  /** See `movedSequence`. */
  #movedSequence: number;
  /** The journal has freed its records up to this one. */
  #freedSequence = 0;

  /** The database has everything up to record `sequence`. */
  constructor(journal: TurnLog | null, folder: DataFolder | null, sequence: number) {
    this.#journal = journal;
    this.#folder = folder;
    this.#movedSequence = sequence;
  }

  /** After the next commit, the database has everything up to this record. */
  get movedSequence(): number {
    return this.#movedSequence;
  }

  /** Moves the next part of old messages, if there are any. True when all are moved and a commit is due. */
  step(move: MoveOldMessages): boolean {
    this.#old ??= this.#journal?.old ?? null;
    const old = this.#old;
    if (old === null || old.sequence === this.#movedSequence || !move(old.number, BYTES_PER_TURN)) return false;
    this.#movedSequence = old.sequence;
    return true;
  }

  /** The chat has stopped and moved everything. */
  moveAll(): void {
    this.#movedSequence = this.#journal?.sequence ?? this.#movedSequence;
  }

  /** The database has everything up to record `sequence`: frees the records if the database is still in its folder. */
  committed(sequence: number): void {
    if (sequence !== this.#freedSequence && this.#folder?.check() !== false) {
      this.#freedSequence = sequence;
      this.#journal?.free(sequence);
    }
    if (this.#old?.sequence === sequence) this.#old = null;
  }
}
