/**
 * The shared log in PostgreSQL. Every operation is one statement, and the row of `shard` is the fence: an append
 * changes its head from the expected number to the next and inserts the record, or does neither. The key of `log` is no
 * fence, since the numbers of trimmed records are free again.
 */
import type { SQL } from "bun";
import { Lane, PostgresServers, Refused, clusterError, within } from "./postgres-servers.ts";
import { connectFirst, initPostgres, readCluster } from "./postgres-tables.ts";
import {
  type AppendResult,
  ClusterError,
  type OpenLog,
  type OwnerInfo,
  type ShardState,
  type SharedLog,
  type SnapshotLabel,
} from "./shared-log.ts";

export { initPostgres };

/** A server needs memory for several copies of a record. */
const RECORD_BYTES_MAX = 1024 * 1024;
/** One statement reads at most this many records, until they have this many bytes; and deletes at most this many. */
const READ_RECORDS = 2048;
const READ_BYTES = 4 * 1024 * 1024;
const TRIM_RECORDS = 500;
const TRIM_PARTS = 16;
/** Time for the first statements after the connection. */
const OPEN_MS = 10_000;

/** Opens the log; rejects with ClusterError when no server of the URL can be used, or has no cluster. */
export const openPostgres: OpenLog = async (url) => {
  const servers = new PostgresServers(url);
  const connection = await connectFirst(servers);
  try {
    const { sql } = connection;
    const { id, shards, secret } = await within(OPEN_MS, readCluster(sql, servers.database));
    const [{ fsync }] = await within(OPEN_MS, settingsOf(sql));
    servers.admit = async (sql) => {
      const cluster = await readCluster(sql, servers.database);
      if (cluster.id !== id) throw new Refused("has another cluster than before", "correct the URL");
    };
    const warnings =
      fsync === "on" ? [] : ["PostgreSQL has fsync off: a power failure loses acknowledged messages; set fsync = on"];
    return new PostgresLog(servers, { shards, secret }, warnings);
  } catch (error) {
    if (error instanceof ClusterError) throw error;
    throw clusterError(error) ?? new ClusterError(`cannot open the cluster: ${(error as Error).message}; try again`);
  } finally {
    connection.close();
  }
};

async function settingsOf(sql: SQL): Promise<[{ fsync: string }]> {
  return sql`SELECT current_setting('fsync') AS fsync`;
}

class PostgresLog implements SharedLog {
  readonly shards: number;
  readonly secret: Uint8Array;
  readonly warnings: readonly string[];
  readonly recordBytesMax = RECORD_BYTES_MAX;
  readonly #servers: PostgresServers;
  /** For small statements; those of megabytes have a lane of their own. */
  readonly #lane: Lane;
  readonly #bulk: Lane;

  constructor(
    servers: PostgresServers,
    { shards, secret }: Pick<SharedLog, "shards" | "secret">,
    warnings: readonly string[],
  ) {
    this.#servers = servers;
    this.shards = shards;
    this.secret = secret;
    this.warnings = warnings;
    this.#lane = new Lane(servers);
    this.#bulk = new Lane(servers);
  }

  get engine(): string {
    return this.#servers.engine;
  }

  async state(shard: number): Promise<ShardState> {
    const [row] = await this.#lane.run(
      async (sql) => sql`SELECT head, epoch, owner, beat, snapshot FROM heartline.shard WHERE shard = ${shard}`,
    );
    if (row === undefined) throw new ClusterError(`the cluster has no shard ${shard}`);
    return stateOf(row);
  }

  async states(): Promise<ShardState[]> {
    const rows = await this.#lane.run(
      async (sql) => sql`SELECT head, epoch, owner, beat, snapshot FROM heartline.shard ORDER BY shard`,
    );
    if (rows.length === this.shards) return rows.map(stateOf);
    throw new ClusterError(`the cluster has ${rows.length} of its ${this.shards} shards; restore the database`);
  }

  async append(shard: number, expected: number, record: Uint8Array): Promise<AppendResult> {
    checkLength(record);
    const sequence = expected + 1;
    // Bun resolves after the commit: an error of the commit rejects the statement.
    const stored = await this.#lane.run(
      async (sql) => sql`
        WITH moved AS (
          UPDATE heartline.shard SET head = ${sequence}::bigint
          WHERE shard = ${shard}::integer AND head = ${expected}::bigint RETURNING 1
        )
        INSERT INTO heartline.log (shard, seq, body)
        SELECT ${shard}::integer, ${sequence}::bigint, ${record}::bytea FROM moved RETURNING 1`,
    );
    return this.#result(shard, stored);
  }

  async claim(shard: number, expected: number, record: Uint8Array, info: OwnerInfo): Promise<AppendResult> {
    checkLength(record);
    const sequence = expected + 1;
    const stored = await this.#lane.run(
      async (sql) => sql`
        WITH moved AS (
          UPDATE heartline.shard
          SET head = ${sequence}::bigint, epoch = ${sequence}::bigint, owner = ${JSON.stringify(info)}, beat = beat + 1
          WHERE shard = ${shard}::integer AND head = ${expected}::bigint RETURNING 1
        )
        INSERT INTO heartline.log (shard, seq, body)
        SELECT ${shard}::integer, ${sequence}::bigint, ${record}::bytea FROM moved RETURNING 1`,
    );
    return this.#result(shard, stored);
  }

  /** The head in the statement's own view may be older than the row that refused it. */
  async #result(shard: number, stored: unknown[]): Promise<AppendResult> {
    return stored.length > 0 ? { stored: true } : { stored: false, head: (await this.state(shard)).head };
  }

  async beat(shard: number, epoch: number, info: OwnerInfo): Promise<boolean> {
    const changed = await this.#lane.run(
      async (sql) => sql`
        UPDATE heartline.shard SET beat = beat + 1, owner = ${JSON.stringify(info)}
        WHERE shard = ${shard} AND epoch = ${epoch} AND epoch > 0 RETURNING 1`,
    );
    return changed.length > 0;
  }

  async *read(shard: number, from: number, upTo: number): AsyncGenerator<{ sequence: number; record: Uint8Array }> {
    let next = from;
    while (next <= upTo) {
      const last = Math.min(upTo, next + READ_RECORDS - 1);
      const rows = await this.#bulk.run(
        async (sql) => sql`
          SELECT seq, body FROM (
            SELECT seq, body, sum(octet_length(body)) OVER (ORDER BY seq) - octet_length(body) AS before
            FROM heartline.log WHERE shard = ${shard} AND seq BETWEEN ${next} AND ${last}
          ) AS records WHERE before < ${READ_BYTES} ORDER BY seq`,
      );
      for (const { seq, body } of rows) {
        if (Number(seq) !== next) throw new ClusterError(missing(shard, next));
        yield { sequence: next++, record: body };
      }
      if (rows.length === 0) throw new ClusterError(missing(shard, next));
    }
  }

  async publishSnapshot(shard: number, label: SnapshotLabel, parts: AsyncIterable<Uint8Array>): Promise<boolean> {
    const { epoch, sequence } = label;
    const known = await this.#comparedSnapshot(shard, label);
    if (known !== "newer") return known === "current";
    // Late statements of a call that failed cannot change the parts of the next call with the same label.
    const id = crypto.randomUUID();
    let count = 0;
    for await (const bytes of parts) {
      checkLength(bytes);
      const part = count++;
      await this.#bulk.run(
        async (sql) => sql`
          INSERT INTO heartline.snapshot (shard, id, part, epoch, seq, crc, bytes)
          VALUES (${shard}, ${id}, ${part}, ${epoch}, ${sequence}, ${Bun.hash.crc32(bytes)}, ${bytes})`,
      );
    }
    const published = await this.#bulk.run(
      async (sql) => sql`
        UPDATE heartline.shard
        SET snapshot = ${sequence}, snapshot_epoch = ${epoch}, snapshot_id = ${id}, snapshot_parts = ${count}
        WHERE shard = ${shard} AND epoch = ${epoch} AND snapshot < ${sequence} AND head >= ${sequence}
          AND (SELECT count(*) FROM heartline.snapshot WHERE shard = ${shard} AND id = ${id}) = ${count}
        RETURNING 1`,
    );
    if (published.length > 0) return true;
    if ((await this.#comparedSnapshot(shard, label)) !== "newer") return false;
    throw new ClusterError(`shard ${shard}: PostgreSQL has lost records or parts of a snapshot; restore the database`);
  }

  /** What a snapshot is to the current one; `older` also when another owner has the shard. */
  async #comparedSnapshot(shard: number, { epoch, sequence }: SnapshotLabel): Promise<"older" | "current" | "newer"> {
    const [row] = await this.#bulk.run(
      async (sql) => sql`SELECT epoch, snapshot, snapshot_epoch FROM heartline.shard WHERE shard = ${shard}`,
    );
    if (row === undefined) throw new ClusterError(`the cluster has no shard ${shard}`);
    if (Number(row.epoch) !== epoch) return "older";
    const isCurrent = Number(row.snapshot) === sequence && Number(row.snapshot_epoch) === epoch;
    return isCurrent ? "current" : Number(row.snapshot) < sequence ? "newer" : "older";
  }

  async snapshot(shard: number): Promise<{ label: SnapshotLabel; parts: AsyncIterable<Uint8Array> } | null> {
    const [row] = await this.#bulk.run(
      async (sql) => sql`
        SELECT snapshot, snapshot_epoch, snapshot_id::text AS id, snapshot_parts FROM heartline.shard
        WHERE shard = ${shard} AND snapshot > 0`,
    );
    if (row === undefined) return null;
    const label = { epoch: Number(row.snapshot_epoch), sequence: Number(row.snapshot) };
    return { label, parts: this.#parts(shard, row.id, row.snapshot_parts) };
  }

  async *#parts(shard: number, id: string, count: number): AsyncGenerator<Uint8Array> {
    for (let part = 0; part < count; part++) {
      const [row] = await this.#bulk.run(
        async (sql) => sql`
          SELECT crc, bytes FROM heartline.snapshot WHERE shard = ${shard} AND id = ${id} AND part = ${part}`,
      );
      if (row === undefined || Bun.hash.crc32(row.bytes) !== Number(row.crc))
        throw new ClusterError(
          `shard ${shard}: part ${part + 1} of ${count} of the snapshot is missing or damaged; restore the database`,
        );
      yield row.bytes;
    }
  }

  /**
   * Deletes only what is older than the current snapshot, so that it needs no lock: not even a deposed owner can
   * delete the parts that the next owner is uploading.
   */
  async trim(shard: number): Promise<void> {
    const [row] = await this.#bulk.run(
      async (sql) => sql`
        SELECT snapshot, snapshot_id::text AS id,
          (SELECT min(seq) FROM heartline.log WHERE shard = ${shard}) AS first
        FROM heartline.shard WHERE shard = ${shard} AND snapshot > 0`,
    );
    if (row === undefined) return;
    const snapshot = Number(row.snapshot);
    for (let from = Number(row.first ?? snapshot + 1); from <= snapshot; from += TRIM_RECORDS) {
      const upTo = Math.min(snapshot, from + TRIM_RECORDS - 1);
      await this.#bulk.run(
        async (sql) => sql`DELETE FROM heartline.log WHERE shard = ${shard} AND seq BETWEEN ${from} AND ${upTo}`,
      );
    }
    for (let deleted = TRIM_PARTS; deleted === TRIM_PARTS;) {
      const rows = await this.#bulk.run(
        async (sql) => sql`
          DELETE FROM heartline.snapshot WHERE (shard, id, part) IN (
            SELECT shard, id, part FROM heartline.snapshot
            WHERE shard = ${shard} AND seq <= ${snapshot} AND id <> ${row.id} LIMIT ${TRIM_PARTS}
          ) RETURNING 1`,
      );
      deleted = rows.length;
    }
  }

  async close(): Promise<void> {
    await Promise.all([this.#lane.close(), this.#bulk.close()]);
  }
}

interface ShardRow {
  head: string;
  epoch: string;
  owner: string | null;
  beat: string;
  snapshot: string;
}

function stateOf({ head, epoch, owner, beat, snapshot }: ShardRow): ShardState {
  return {
    head: Number(head),
    epoch: Number(epoch),
    owner: owner === null ? null : JSON.parse(owner),
    beat: Number(beat),
    snapshot: Number(snapshot),
  };
}

function checkLength({ length }: Uint8Array): void {
  if (length > RECORD_BYTES_MAX)
    throw new ClusterError(`${length} bytes are too long for the shared log; the limit is ${RECORD_BYTES_MAX}`);
}

function missing(shard: number, sequence: number): string {
  return `shard ${shard}: record ${sequence} is missing: it was trimmed, or the database has lost it`;
}
