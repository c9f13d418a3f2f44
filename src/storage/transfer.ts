import { Database, type SQLQueryBindings } from "bun:sqlite";
import { chmodSync } from "node:fs";
import { encode } from "../protocol/ascii.ts";
import { shardOf } from "../protocol/shard.ts";
import { StoreError } from "./database.ts";
import { PRAGMA, SQL, TRANSACTION, upgrades } from "./sql.ts";

/**
 * The contents of a data folder, divided among the shards of a cluster (`split`), and those of all shards in one data
 * folder (`Merge`). The sources were recovered (recovery.ts), so all messages are in mailboxes, and no session is open.
 * Where they come from and go to is not decided here (src/cluster/import.ts, src/cluster/export.ts).
 *
 * Message and session numbers are known to no client. A client knows the token of a session and a position in its
 * stream; the table `delivered` turns these into the number of a message, up to which the user has all messages. So a
 * login with `after=` finds the same messages as before if all of this keeps its order: the numbers in the mailbox of
 * a user, and the numbers in `delivered` of the user's sessions, each compared with those of the mailbox. All of it is
 * in one shard, and so are all messages of one sender to that user.
 *
 * - `split` changes no number. Each shard continues after the highest number of the source.
 * - `Merge` must change numbers, since two shards have given out the same ones: see `Numbers`.
 */

type Row = SQLQueryBindings[];

/** What was moved. */
export interface Moved {
  messages: number;
  sessions: number;
  blocks: number;
  bans: number;
}

/** Tables without numbers, whose rows concern one user, the first value of a row. */
const OF_USERS = [
  [SQL.selectBans, SQL.insertBan, "bans"],
  [SQL.selectLockouts, SQL.insertLockout, null],
  [SQL.selectAllLastLogins, SQL.insertLastLogin, null],
] as const;

/** The first character of the users that stand for shards: their messages are requests for those (neighbours.ts). */
const SHARD_MARK = "#";

/** A database in a new file, which is complete and closed after `end`. It has a mode that any later start changes. */
class NewDatabase {
  readonly #database: Database;

  constructor(file: string) {
    this.#database = new Database(file, { create: true });
    chmodSync(file, 0o600);
    this.#database.run(PRAGMA.noJournal);
    this.#database.run(PRAGMA.synchronous.none);
    this.#database.run(TRANSACTION.begin);
    for (const statement of upgrades(0)) this.#database.run(statement);
  }

  insert(sql: string, row: Row): number {
    return this.#database.query<unknown, Row>(sql).run(...row).changes;
  }

  /** `number`: the highest message or session number that was given out. */
  end(number: number): void {
    this.insert(SQL.updateProgress, [0, 0, number]);
    this.#database.run(TRANSACTION.commit);
    this.close();
  }

  close(): void {
    this.#database.close();
  }
}

/** The rows of a statement, their values in the order of its columns. */
function* rowsOf(database: Database, sql: string): Generator<Row> {
  for (const row of database.query<Record<string, SQLQueryBindings>, []>(sql).iterate()) yield Object.values(row);
}

/** Counts rows for the progress. */
class Counter {
  readonly #all: number;
  readonly #progress: (part: number) => void;
  #done = 0;

  constructor(database: Database, progress: (part: number) => void) {
    this.#all = Math.max(1, database.query<{ rows: number }, []>(SQL.countRows).get()!.rows);
    this.#progress = progress;
  }

  add(): void {
    this.#progress(Math.min(1, ++this.#done / this.#all));
  }
}

function shardOfUser(user: string, shards: number): number {
  const bytes = encode(user);
  return shardOf(bytes, 0, bytes.length, shards);
}

/**
 * Makes a database in each of these files, one for each shard: it has everything of the users of that shard. A block
 * is known to the shards of both users. Throws StoreError.
 */
export function* split(
  source: Database,
  files: readonly string[],
  progress: (part: number) => void,
): Generator<void, Moved> {
  const shards = files.length;
  const counter = new Counter(source, progress);
  const moved: Moved = { messages: 0, sessions: 0, blocks: 0, bans: 0 };
  const parts: NewDatabase[] = [];
  try {
    for (const file of files) parts.push(new NewDatabase(file));
    const partOf = (user: unknown): NewDatabase => parts[shardOfUser(user as string, shards)]!;
    for (const row of rowsOf(source, SQL.selectAllMessages)) {
      const [user] = row;
      if ((user as string).startsWith(SHARD_MARK))
        throw new StoreError(
          "it is the backup of a shard, with requests for users of other shards, which would be lost; " +
            "import the folder of a server without a cluster, or an export",
        );
      moved.messages += partOf(user).insert(SQL.insertMessage, row);
      yield counter.add();
    }
    for (const row of rowsOf(source, SQL.selectAllSessions)) {
      moved.sessions += partOf(row[2]).insert(SQL.insertEndedSession, row);
      yield counter.add();
    }
    for (const [session, position, number, earlier, user] of rowsOf(source, SQL.selectAllRuns)) {
      partOf(user).insert(SQL.insertRun, [session!, position!, number!, earlier!]);
      yield counter.add();
    }
    for (const row of rowsOf(source, SQL.selectBlocks)) {
      for (const part of new Set(row.map(partOf))) part.insert(SQL.insertBlock, row);
      yield void moved.blocks++;
    }
    for (const [select, insert, count] of OF_USERS) {
      for (const row of rowsOf(source, select)) {
        partOf(row[0]).insert(insert, row);
        if (count !== null) moved[count]++;
        yield;
      }
    }
    const { number } = source.query<{ number: number }, []>(SQL.selectProgress).get()!;
    for (const part of parts) part.end(number);
  } finally {
    for (const part of parts) part.close();
  }
  return moved;
}

/**
 * New numbers for the numbers of one shard: the n-th one becomes `base` + n. Any other number, such as that of a
 * message that was acknowledged, becomes the new number of the last one before it, or `base` without one. So for each
 * number m of the shard and any number d, m <= d before if and only if m <= d afterwards.
 */
export class Numbers {
  readonly #base: number;
  /** Ascending. */
  readonly #old: readonly number[];

  constructor(base: number, old: readonly number[]) {
    this.#base = base;
    this.#old = old;
  }

  /** The highest new number. */
  get last(): number {
    return this.#base + this.#old.length;
  }

  of(number: number): number {
    let [low, high] = [0, this.#old.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#old[middle]! <= number) low = middle + 1;
      else high = middle;
    }
    return this.#base + low;
  }
}

/** Requests of users of one shard for users of another one that this one has not acted on. */
export interface Unheard {
  from: number;
  to: number;
  count: number;
}

/** Makes one database of those of all shards. */
export class Merge {
  readonly moved: Moved = { messages: 0, sessions: 0, blocks: 0, bans: 0 };
  readonly #target: NewDatabase;
  readonly #shards: number;
  #lastMessage = 0;
  #lastSession = 0;
  /** What waits for each shard in another one: the numbers of the requests. */
  readonly #forwards: { from: number; to: number; number: number }[] = [];
  /** The highest number that a shard has heard from another one, by both. */
  readonly #heard = new Map<string, number>();

  constructor(file: string, shards: number) {
    this.#target = new NewDatabase(file);
    this.#shards = shards;
  }

  /** Adds everything that the users of that shard have. */
  *add(source: Database, shard: number, progress: (part: number) => void): Generator<void> {
    const { moved } = this;
    const target = this.#target;
    const counter = new Counter(source, progress);
    const messages = new Numbers(this.#lastMessage, [...numbersOf(source, SQL.selectMessageNumbers)]);
    const sessions = new Numbers(this.#lastSession, [...numbersOf(source, SQL.selectSessionNumbers)]);
    for (const [user, number, ...rest] of rowsOf(source, SQL.selectAllMessages)) {
      const name = user as string;
      if (name.startsWith(SHARD_MARK)) {
        this.#forwards.push({ from: shard, to: Number(name.slice(SHARD_MARK.length)), number: number as number });
      } else moved.messages += target.insert(SQL.insertMessage, [name, messages.of(number as number), ...rest]);
      yield counter.add();
    }
    for (const [number, ...rest] of rowsOf(source, SQL.selectAllSessions)) {
      moved.sessions += target.insert(SQL.insertEndedSession, [sessions.of(number as number), ...rest]);
      yield counter.add();
    }
    for (const [session, position, number, earlier] of rowsOf(source, SQL.selectAllRuns)) {
      const pairs = renumbered(earlier as Uint8Array | null, messages);
      target.insert(SQL.insertRun, [sessions.of(session as number), position!, messages.of(number as number), pairs]);
      yield counter.add();
    }
    // The shard of the user who blocks decides; that of the other user has a copy.
    for (const row of rowsOf(source, SQL.selectBlocks)) {
      if (shardOfUser(row[0] as string, this.#shards) === shard) moved.blocks += target.insert(SQL.insertBlock, row);
      yield;
    }
    for (const [select, insert, count] of OF_USERS) {
      for (const row of rowsOf(source, select)) {
        target.insert(insert, row);
        if (count !== null) moved[count]++;
        yield;
      }
    }
    for (const [from, heard] of rowsOf(source, SQL.selectNeighbours))
      this.#heard.set(`${from} ${shard}`, heard as number);
    this.#lastMessage = messages.last;
    this.#lastSession = sessions.last;
  }

  /**
   * Requests that would be lost. One that the other shard has heard is done: its effect is there, and only its reply
   * has not reached the first shard, as after a crash of that one.
   */
  get unheard(): Unheard[] {
    const counts = new Map<string, Unheard>();
    for (const { from, to, number } of this.#forwards) {
      const key = `${from} ${to}`;
      if (number <= (this.#heard.get(key) ?? 0)) continue;
      const found = counts.get(key);
      if (found === undefined) counts.set(key, { from, to, count: 1 });
      else found.count++;
    }
    return [...counts.values()];
  }

  /** Completes the database. */
  end(): void {
    this.#target.end(Math.max(this.#lastMessage, this.#lastSession));
  }

  close(): void {
    this.#target.close();
  }
}

function* numbersOf(database: Database, sql: string): Generator<number> {
  for (const { number } of database.query<{ number: number }, []>(sql).iterate()) yield number;
}

/** The pairs of position and number of a run (delivered-run.ts). */
function renumbered(earlier: Uint8Array | null, messages: Numbers): Uint8Array | null {
  if (earlier === null) return null;
  const pairs = new Float64Array(earlier.slice().buffer); // Aligned.
  for (let i = 1; i < pairs.length; i += 2) pairs[i] = messages.of(pairs[i]!);
  return new Uint8Array(pairs.buffer);
}
