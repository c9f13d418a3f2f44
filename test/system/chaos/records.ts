/** Whether each message that got `ok` has its record in the log of its recipient's shard. */
import { openLog } from "../../../src/cluster/open-log.ts";
import { RecordKind, decodeRecord } from "../../../src/cluster/log-record.ts";
import type { SharedLog } from "../../../src/cluster/shared-log.ts";
import { shardOf } from "../../../src/protocol/shard.ts";
import { EntryReader, JournalEntry } from "../../../src/storage/journal-entry.ts";

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

/** `accepted` are the messages as `<from> <to> <number>`. */
export async function checkRecords(url: string, accepted: readonly string[]): Promise<RecordTally> {
  const log = await openLog(url);
  const tally: RecordTally = { checked: 0, unchecked: 0, crossed: 0, missing: [] };
  try {
    const recorded: (Set<string> | null)[] = [];
    for (let shard = 0; shard < log.shards; shard++) recorded.push(await messagesIn(log, shard));
    const shardFor = (user: string): number => shardOf(Buffer.from(user), 0, user.length, log.shards);
    for (const message of accepted) {
      const [from, to, number] = message.split(" ") as [string, string, string];
      const messages = recorded[shardFor(to)]!;
      tally[messages === null ? "unchecked" : "checked"]++;
      tally.crossed += Number(messages !== null && shardFor(from) !== shardFor(to));
      if (messages !== null && !messages.has(message)) tally.missing.push(`${from} > ${to} ${number} (no record)`);
    }
    return tally;
  } finally {
    await log.close();
  }
}

/** All messages in the log of a shard, as `<from> <to> <number>`; null when a snapshot has replaced its beginning. */
async function messagesIn(log: SharedLog, shard: number): Promise<Set<string> | null> {
  const { head, snapshot } = await log.state(shard);
  if (snapshot > 0) return null;
  const messages = new Set<string>();
  let parts: Buffer[] = [];
  for await (const { record } of log.read(shard, 1, head)) {
    const { kind, part, parts: count, body } = decodeRecord(record);
    if (part === 1) parts = [];
    parts.push(Buffer.from(body));
    if (kind === RecordKind.Turn && part === count) addMessages(Buffer.concat(parts), messages);
  }
  return messages;
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
