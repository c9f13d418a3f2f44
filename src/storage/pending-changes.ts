import type { Database, SQLQueryBindings, Statement } from "bun:sqlite";
import { STORE_CHANGES_BYTES_MAX, STORE_CHANGES_MAX } from "../limits.ts";
import { Arena } from "./arena.ts";
import { TRANSACTION } from "./sql.ts";

/**
 * Changes of the database that no commit has yet. They are executed at the end of their turn, or at the next read or
 * commit. A failed commit rolls the transaction back, and the next attempt executes all of them again. When to
 * commit is not decided here (commits.ts).
 */
export class PendingChanges {
  readonly #database: Database;
  #changes: { statement: Statement; values: SQLQueryBindings[] }[] = [];
  /** How many of the changes the open transaction has. */
  #executed = 0;
  /** Bytes of messages in the changes. */
  #bytes = 0;
  /** Copies of message texts: the chunks that the texts arrived in are gone when a change is executed again. */
  readonly #texts = new Arena(2 * STORE_CHANGES_BYTES_MAX);

  constructor(database: Database) {
    this.#database = database;
  }

  /** How much there is, as a part of what one commit should have: from 1 on a commit is due. */
  get fill(): number {
    return Math.max(this.#changes.length / STORE_CHANGES_MAX, this.#bytes / STORE_CHANGES_BYTES_MAX);
  }

  get isEmpty(): boolean {
    return this.#changes.length === 0;
  }

  add(statement: Statement, ...values: SQLQueryBindings[]): void {
    this.#changes.push({ statement, values });
  }

  /** Bytes of messages that SQLite writes or deletes: their number makes a commit slow. */
  countBytes(bytes: number): void {
    this.#bytes += bytes;
  }

  /** A copy of a message's text that stays until the commit. */
  copy(text: Uint8Array): Buffer {
    this.#bytes += text.length;
    return this.#texts.copy(text);
  }

  /** Executes all changes in a transaction, which is open only while there are changes. */
  execute(): void {
    if (this.isEmpty) return;
    const { inTransaction } = this.#database;
    if (!inTransaction) this.#executed = 0;
    if (this.#executed === this.#changes.length) return;
    if (!inTransaction) this.#database.run(TRANSACTION.begin);
    for (; this.#executed < this.#changes.length; this.#executed++) {
      const { statement, values } = this.#changes[this.#executed]!;
      statement.run(...values);
    }
  }

  /** Commits all changes, with `last` at the end of the transaction. Throws when the disk refuses. */
  commit(last: () => void): void {
    this.execute();
    if (!this.#database.inTransaction) this.#database.run(TRANSACTION.begin);
    last();
    this.#database.run(TRANSACTION.commit);
    this.#changes = [];
    this.#texts.clear();
    this.#bytes = 0;
  }
}
