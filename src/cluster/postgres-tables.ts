/** The tables of a cluster in PostgreSQL, and `init`, which creates them. The shared log is in postgres-log.ts. */
import type { SQL } from "bun";
import { typed } from "../runtime/invocation.ts";
import { type Connection, PostgresServers, clusterError, within } from "./postgres-servers.ts";
import { ClusterError } from "./shared-log.ts";

/** Version of the tables below. */
const FORMAT = 1;
const SECRET_BYTES = 32;
/** Time for all statements of `init`. A commit waits for a synchronous standby without end. */
const CREATE_MS = 10_000;

/**
 * The body of a record and the bytes of a part are stored uncompressed, since most are not compressible, and outside of
 * the row, so that `shard` and the indexes stay small. `shard` is changed by each append: its page has room for new
 * versions of a row, and no index changes.
 */
const TABLES = `
  CREATE TABLE heartline.cluster (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    format integer NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    shards integer NOT NULL,
    secret bytea NOT NULL
  );
  CREATE TABLE heartline.shard (
    shard integer PRIMARY KEY,
    head bigint NOT NULL DEFAULT 0,
    epoch bigint NOT NULL DEFAULT 0,
    owner text,
    beat bigint NOT NULL DEFAULT 0,
    snapshot bigint NOT NULL DEFAULT 0,
    snapshot_epoch bigint NOT NULL DEFAULT 0,
    snapshot_id uuid,
    snapshot_parts integer NOT NULL DEFAULT 0
  ) WITH (fillfactor = 10);
  CREATE TABLE heartline.log (
    shard integer NOT NULL,
    seq bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (shard, seq)
  );
  CREATE TABLE heartline.snapshot (
    shard integer NOT NULL,
    id uuid NOT NULL,
    part integer NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    crc bigint NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (shard, id, part)
  );
  ALTER TABLE heartline.log ALTER COLUMN body SET STORAGE EXTERNAL;
  ALTER TABLE heartline.snapshot ALTER COLUMN bytes SET STORAGE EXTERNAL;
`;

const TRY_AGAIN = "look at the server and at its synchronous standbys, and try again";

/** SQLSTATE of another init at the same time: duplicate schema, table, type, or key of a catalog. */
const DUPLICATE = new Set(["42P06", "42P07", "42710", "23505"]);

export interface ClusterRow {
  id: string;
  shards: number;
  secret: Uint8Array;
}

/** Creates the tables of a new cluster in one transaction. Rejects with ClusterError; then nothing was written. */
export async function initPostgres(url: string, shards: number): Promise<void> {
  const servers = new PostgresServers(url);
  const connection = await connectFirst(servers);
  try {
    await within(
      CREATE_MS,
      connection.sql.begin((sql) => create(sql, shards, servers.database)),
    );
  } catch (error) {
    if (error instanceof ClusterError) throw error;
    if (DUPLICATE.has((error as SQL.PostgresError).errno ?? "")) throw existing(servers.database);
    const reason = (error as Error).message.replace(/\s+/g, " ");
    const advice = clusterError(error) === null ? TRY_AGAIN : "grant CREATE on the database to this user";
    throw new ClusterError(`cannot create the cluster: ${reason}; ${advice}`);
  } finally {
    connection.close();
  }
}

async function create(sql: SQL, shards: number, database: string): Promise<void> {
  const [{ schema, table }] = await sql`
    SELECT to_regnamespace('heartline') AS schema, to_regclass('heartline.cluster') AS table`;
  if (table !== null) throw existing(database);
  // An administrator may have created the schema for a user who must not create one.
  if (schema === null) await sql`CREATE SCHEMA heartline`;
  await sql.unsafe(TABLES).simple();
  const secret = crypto.getRandomValues(new Uint8Array(SECRET_BYTES));
  await sql`INSERT INTO heartline.cluster (format, shards, secret) VALUES (${FORMAT}, ${shards}, ${secret})`;
  await sql`INSERT INTO heartline.shard (shard) SELECT generate_series(0, ${shards - 1}::integer)`;
}

function existing(database: string): ClusterError {
  return new ClusterError(
    `cannot create the cluster: database ${database} has one already; ` +
      "use that one, or another database, or drop its schema heartline with all messages",
  );
}

/** The first connection to any server of the URL. Rejects with ClusterError. */
export async function connectFirst(servers: PostgresServers): Promise<Connection> {
  try {
    return await servers.connect();
  } catch (error) {
    throw new ClusterError(`cannot open PostgreSQL: ${(error as Error).message}`);
  }
}

/** The cluster of a database. Rejects with ClusterError when there is none that this program can use. */
export async function readCluster(sql: SQL, database: string): Promise<ClusterRow> {
  let rows: (ClusterRow & { format: number })[];
  try {
    rows = await sql`SELECT format, id::text AS id, shards, secret FROM heartline.cluster`;
  } catch (error) {
    if (["42P01", "3F000"].includes((error as SQL.PostgresError).errno ?? "")) rows = [];
    else throw clusterError(error) ?? error;
  }
  const [row] = rows;
  if (row === undefined)
    throw new ClusterError(
      `cannot open the cluster: database ${database} has none; create it with ${typed("cluster", "init")} <url>`,
    );
  if (row.format !== FORMAT)
    throw new ClusterError(
      `cannot open the cluster: its tables have format ${row.format}, and this version reads ${FORMAT}; ` +
        "use the version that wrote them",
    );
  return row;
}
