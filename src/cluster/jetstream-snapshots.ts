/** The snapshots of one shard: each is a stream of its own, and the state of the shard names the current one. */
import type { Chain } from "./jetstream-chain.ts";
import { numberOf, type ShardNames } from "./jetstream-names.ts";
import type { ShardRecord, ShardRecords, SnapshotRecord } from "./jetstream-state.ts";
import type { PublishResult, Streams } from "./jetstream-streams.ts";
import { ClusterError, type SnapshotLabel } from "./shared-log.ts";

/** Parts that are uploaded at the same time. */
const PARTS_AT_ONCE = 8;

export class Snapshots {
  readonly #streams: Streams;
  readonly #names: ShardNames;
  readonly #records: ShardRecords;
  readonly #chain: Chain;

  constructor(streams: Streams, names: ShardNames, records: ShardRecords, chain: Chain) {
    this.#streams = streams;
    this.#names = names;
    this.#records = records;
    this.#chain = chain;
  }

  async publish(label: SnapshotLabel, parts: AsyncIterable<Uint8Array>): Promise<boolean> {
    const before = await this.#records.read();
    if (!isNext(label, before)) return isCurrent(label, before);
    const stream = this.#names.newSnapshot(label.sequence);
    await this.#streams.create(stream, this.#names.snapshotSubject(stream));
    let snapshot: SnapshotRecord;
    let first: string;
    try {
      snapshot = { ...label, stream, ...(await this.#upload(stream, parts)) };
      first = await this.#chain.firstAfter(label.sequence);
    } catch (error) {
      await this.#discard(stream);
      throw error;
    }
    const update = (record: ShardRecord) => (isNext(label, record) ? { ...record, first, snapshot } : null);
    if ((await this.#records.change(update)) !== null) return true;
    await this.#discard(stream);
    return isCurrent(label, await this.#records.read());
  }

  async current(): Promise<{ label: SnapshotLabel; parts: AsyncIterable<Uint8Array> } | null> {
    const { snapshot } = await this.#records.read();
    if (snapshot === null) return null;
    const { epoch, sequence } = snapshot;
    return { label: { epoch, sequence }, parts: this.#download(snapshot) };
  }

  /** Deletes the streams of snapshots that are not current and never can be. */
  async trim({ stream, sequence }: SnapshotRecord): Promise<void> {
    for (const name of await this.#streams.names(this.#names.snapshotSubjects))
      if (name !== stream && numberOf(name) <= sequence) await this.#streams.delete(name);
  }

  async #upload(stream: string, parts: AsyncIterable<Uint8Array>): Promise<{ parts: number; checksum: number }> {
    const subject = this.#names.snapshotSubject(stream);
    const uploads: Promise<PublishResult>[] = [];
    const finish = async (upload: Promise<PublishResult>): Promise<void> => {
      if (!(await upload).stored) throw new Error(`another process wrote to the stream ${stream}`);
    };
    let count = 0;
    let checksum = 0;
    try {
      for await (const part of parts) {
        checksum = Bun.hash.crc32(part, checksum);
        const upload = this.#streams.publish(stream, subject, count++, part);
        upload.catch(() => {}); // It is awaited later.
        uploads.push(upload);
        if (uploads.length === PARTS_AT_ONCE) await finish(uploads.shift()!);
      }
      while (uploads.length > 0) await finish(uploads.shift()!);
    } finally {
      await Promise.allSettled(uploads);
    }
    return { parts: count, checksum };
  }

  async *#download({ stream, sequence, parts, checksum }: SnapshotRecord): AsyncGenerator<Uint8Array> {
    let found = 0;
    for await (const { data } of this.#streams.read(stream, 1, parts)) {
      found = Bun.hash.crc32(data, found);
      yield data;
    }
    if (found !== checksum)
      throw new ClusterError(`the snapshot up to record ${sequence} is damaged: its checksum is wrong`);
  }

  async #discard(stream: string): Promise<void> {
    await this.#streams.delete(stream).catch(() => {}); // `trim` deletes it.
  }
}

function isCurrent({ epoch, sequence }: SnapshotLabel, { snapshot }: ShardRecord): boolean {
  return snapshot !== null && snapshot.epoch === epoch && snapshot.sequence === sequence;
}

/** The owner may make it the current snapshot. */
function isNext(label: SnapshotLabel, { epoch, snapshot }: ShardRecord): boolean {
  return label.epoch === epoch && label.sequence > (snapshot?.sequence ?? 0);
}
