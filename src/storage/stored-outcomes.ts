import type { Database } from "bun:sqlite";
import { Outcomes } from "../chat/outcomes.ts";
import { EntryReader, EntryWriter, JournalEntry, NOTHING } from "./journal-entry.ts";
import { SQL } from "./sql.ts";

/**
 * The table `neighbours`: what was heard from the other shards of a cluster. Between compactions only the journal has
 * it, and the chat has it in memory, so that a forwarded request costs no statement. The replies of a neighbour are one
 * blob with the journal entries that they had.
 */

interface Row {
  shard: number;
  heard: number;
  replies: Uint8Array;
}

/** The outcomes of each shard that the database has. */
export function readOutcomes(database: Database): Map<number, Outcomes> {
  const all = new Map<number, Outcomes>();
  for (const { shard, heard, replies } of database.query<Row, []>(SQL.selectNeighbours).all()) {
    const outcomes = outcomesOf(all, shard);
    const bytes = Buffer.from(replies);
    const reader = new EntryReader(bytes, 0, bytes.length);
    while (reader.next()) addEntry(outcomes, reader);
    outcomes.heard = heard;
  }
  return all;
}

export function outcomesOf(all: Map<number, Outcomes>, shard: number): Outcomes {
  let outcomes = all.get(shard);
  if (outcomes === undefined) all.set(shard, (outcomes = new Outcomes()));
  return outcomes;
}

/** An entry Heard; the outcomes may have it already, and later ones. */
export function addEntry(outcomes: Outcomes, { numbers, bytes, textStart, textEnd }: EntryReader): void {
  const [, number = 0, answered = 0] = numbers;
  outcomes.add(number, Uint8Array.prototype.slice.call(bytes, textStart, textEnd));
  outcomes.forget(answered);
}

/** The values of a row, in the order of its columns. */
export function rowOf(shard: number, outcomes: Outcomes): [shard: number, heard: number, replies: Uint8Array] {
  const entries = new EntryWriter();
  for (const [number, reply] of outcomes) {
    entries.add(JournalEntry.Heard, 0, NOTHING, NOTHING, reply, shard, number, outcomes.answered);
  }
  return [shard, outcomes.heard, Buffer.from(entries.bytes.subarray(entries.start, entries.start + entries.length))];
}
