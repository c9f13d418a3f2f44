/** Whether each message that got `ok` has its record in the log of its recipient's shard. */
import { openLog } from "../../../src/cluster/open-log.ts";
import { RecordKind, decodeRecord } from "../../../src/cluster/log-record.ts";
import type { SharedLog } from "../../../src/cluster/shared-log.ts";
import { shardOf } from "../../../src/protocol/shard.ts";
import { EntryReader, JournalEntry } from "../../../src/storage/journal-entry.ts";

/** Between two looks at the log: a snapshot replaces only records that are older. */
const POLL_MS = 1_000;

export interface RecordTally {
  /** Messages that must have a record. */
  checked: number;
  /** Messages of shards whose first records a snapshot has replaced. */
  unchecked: number;
  /** How many of those that must have a record crossed from one shard to another. */
  crossed: number;
  /** `<from> > <to> <number>` without a record. */
  missing: string[];
}

/** What was read of the log of a shard. */
interface ShardRecords {
  /** As `<from> <to> <number>`. */
  readonly messages: Set<string>;
  /** The next record to read. */
  next: number;
  /** The parts of a turn whose last part is not read. */
  parts: Buffer[];
  /** A snapshot had replaced records before they were read. */
  isIncomplete: boolean;
}

/**
 * Reads the log of a cluster from now on, so that a snapshot replaces no record that was not read. Call what it returns
 * with the messages that got `ok`, as `<from> <to> <number>`, to look for their records.
 */
export async function followRecords(url: string): Promise<(accepted: readonly string[]) => Promise<RecordTally>> {
  const log = await openLog(url);
  const reader = new RecordReader(log);
  let isOver = false;
  const follow = async (): Promise<void> => {
    while (!isOver) {
      await reader.read().catch(() => {}); // The engine may be away.
      await Bun.sleep(POLL_MS);
    }
  };
  const following = follow();
  return async (accepted) => {
    isOver = true;
    await following;
    try {
      await reader.read();
      return reader.check(accepted);
    } finally {
      await log.close();
    }
  };
}

class RecordReader {
  readonly #log: SharedLog;
  readonly #shards: ShardRecords[];

  constructor(log: SharedLog) {
    this.#log = log;
    const nothing = (): ShardRecords => ({ messages: new Set(), next: 1, parts: [], isIncomplete: false });
    this.#shards = Array.from({ length: log.shards }, nothing);
  }

  /** Reads on to the last record. Rejects while the engine is away; the next call continues. */
  async read(): Promise<void> {
    for (const [shard, records] of this.#shards.entries()) {
      const { head, snapshot } = await this.#log.state(shard);
      if (snapshot >= records.next) records.isIncomplete = true;
      if (records.isIncomplete) continue;
      for await (const { sequence, record } of this.#log.read(shard, records.next, head)) {
        const { kind, part, parts: count, body } = decodeRecord(record);
        if (part === 1) records.parts = [];
        records.parts.push(Buffer.from(body));
        if (kind === RecordKind.Turn && part === count) addMessages(Buffer.concat(records.parts), records.messages);
        records.next = sequence + 1;
      }
    }
  }

  check(accepted: readonly string[]): RecordTally {
    const tally: RecordTally = { checked: 0, unchecked: 0, crossed: 0, missing: [] };
    const shardFor = (user: string): number => shardOf(Buffer.from(user), 0, user.length, this.#log.shards);
    for (const message of accepted) {
      const [from, to, number] = message.split(" ") as [string, string, string];
      const { messages, isIncomplete } = this.#shards[shardFor(to)]!;
      tally[isIncomplete ? "unchecked" : "checked"]++;
      if (isIncomplete) continue;
      if (shardFor(from) !== shardFor(to)) tally.crossed++;
      if (!messages.has(message)) tally.missing.push(`${from} > ${to} ${number} (no record)`);
    }
    return tally;
  }
}

function addMessages(turn: Buffer, messages: Set<string>): void {
  const entry = new EntryReader(turn, 0, turn.length);
  while (entry.next()) {
    const { kind, user, other } = entry;
    if (user.startsWith("#")) continue; // What waits for another shard has its record there.
    const text = (start: number, end: number): string => turn.toString("latin1", start, end);
    if (kind === JournalEntry.Stored) {
      const number = Number.parseInt(text(entry.textStart, entry.textEnd), 10);
      messages.add(`${other} ${user} ${number}`);
    }
    if (kind !== JournalEntry.Sent) continue;
    for (let i = 0; i < entry.messageCount; i++) {
      const { start, end } = entry.line(entry.message(i).position);
      const [, from, number] = /^(?:message|stored) (\S+) (\d+)/.exec(text(start, end)) ?? [];
      if (from !== undefined) messages.add(`${from} ${user} ${number}`);
    }
  }
}
