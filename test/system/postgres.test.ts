import { SQL } from "bun";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { initPostgres, openPostgres } from "../../src/cluster/postgres-log.ts";
import { ClusterError, type SharedLog } from "../../src/cluster/shared-log.ts";
import { testSharedLog } from "../cluster/conformance.ts";
import { PostgresEngine, postgresPrograms } from "../support/postgres-engine.ts";
import { run } from "../support/process.ts";

/** Processes are killed here, not machines: without fsync nothing is lost, and the tests are faster. */
const FAST = "fsync=off";
const TIMEOUT_MS = 60_000;
const OWNER = { address: "10.0.0.1:6010", version: "1.2.3", credentials: "c1" };
const has = postgresPrograms !== null;

afterAll(PostgresEngine.closeAll, TIMEOUT_MS);

if (has) {
  testSharedLog("PostgreSQL", { server: true, damage: true, exactTrim: true }, async (shards) => {
    const server = await PostgresEngine.start(FAST);
    const url = server.url("postgres");
    await initPostgres(url, shards);
    const sql = new SQL(url, { max: 1 });
    const current = (shard: number) => sql`(SELECT snapshot_id FROM heartline.shard WHERE shard = ${shard})`;
    return {
      open: () => openPostgres(url),
      server,
      damage: {
        loseRecord: async (shard, sequence) =>
          await sql`DELETE FROM heartline.log WHERE shard = ${shard} AND seq = ${sequence}`,
        losePart: async (shard, part) =>
          await sql`DELETE FROM heartline.snapshot WHERE id = ${current(shard)} AND part = ${part}`,
        changePart: async (shard, part) =>
          await sql`
            UPDATE heartline.snapshot SET bytes = set_byte(bytes, 0, get_byte(bytes, 0) # 1)
            WHERE id = ${current(shard)} AND part = ${part}`,
        countParts: async (shard) =>
          Number((await sql`SELECT count(*) AS parts FROM heartline.snapshot WHERE shard = ${shard}`)[0].parts),
      },
      close: () => sql.close({ timeout: 0 }),
    };
  });
}

const logs: SharedLog[] = [];

async function open(url: string): Promise<SharedLog> {
  const log = await openPostgres(url);
  logs.push(log);
  return log;
}

afterEach(async () => {
  for (const log of logs.splice(0)) await log.close();
});

/** The message of a ClusterError; it never contains the password. */
async function refused(promise: Promise<unknown>): Promise<string> {
  const error = await failure(promise);
  expect(error).toBeInstanceOf(ClusterError);
  expect(error.message).not.toContain("engine-secret");
  expect(error.message).not.toContain("\n");
  return error.message;
}

/** Why no server can be used; the first call may only find that the connection was closed. */
async function awayReason(log: SharedLog): Promise<string> {
  await failure(log.state(0));
  const error = await failure(log.state(0));
  expect(error).not.toBeInstanceOf(ClusterError);
  return error.message;
}

async function failure(promise: Promise<unknown>): Promise<Error> {
  const error = await promise.then(
    () => null,
    (error) => error,
  );
  expect(error).toBeInstanceOf(Error);
  return error;
}

describe.skipIf(!has)("a database of PostgreSQL", () => {
  let server: PostgresEngine;
  let admin: SQL;
  let databases = 0;

  beforeAll(async () => {
    server = await PostgresEngine.start(FAST);
    admin = new SQL(server.url("postgres"), { max: 1 });
  }, TIMEOUT_MS);

  afterAll(() => admin.close({ timeout: 0 }));

  /** The name of a new database. */
  async function create(): Promise<string> {
    const name = `database_${++databases}`;
    await admin.unsafe(`CREATE DATABASE ${name}`);
    return name;
  }

  /** A connection of the administrator to a database, until the end of `use`. */
  async function inside<T>(database: string, use: (sql: SQL) => Promise<T>): Promise<T> {
    const sql = new SQL(server.url(database), { max: 1 });
    try {
      return await use(sql);
    } finally {
      await sql.close();
    }
  }

  const hasSchema = (database: string): Promise<boolean> =>
    inside(database, async (sql) => (await sql`SELECT to_regnamespace('heartline') AS schema`)[0].schema !== null);

  test("gets the tables of one cluster: of two processes that create it at the same time, one does", async () => {
    const url = server.url(await create());
    const results = await Promise.allSettled([initPostgres(url, 1), initPostgres(url, 2)]);
    expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    const shards = results.findIndex(({ status }) => status === "fulfilled") + 1;
    expect((await open(url)).shards).toBe(shards);
    const other = results.find((result) => result.status === "rejected")!;
    for (const again of [Promise.reject(other.reason), initPostgres(url, 3)])
      expect(await refused(again)).toMatch(/^cannot create the cluster: database database_\d+ has one already; use /);
    expect((await open(url)).shards).toBe(shards);
  });

  test("has a secret and an id that no other cluster has", async () => {
    const rows = await Promise.all(
      [await create(), await create()].map(async (database) => {
        await initPostgres(server.url(database), 1);
        return inside(database, async (sql) => (await sql`SELECT id, secret FROM heartline.cluster`)[0]);
      }),
    );
    expect(rows[0].secret).toHaveLength(32);
    expect(rows[0].secret.equals(rows[1].secret)).toBe(false);
    expect(rows[0].id).not.toBe(rows[1].id);
  });

  test("without a cluster is refused in one line, and stays as it is", async () => {
    const database = await create();
    expect(await refused(openPostgres(server.url(database)))).toMatch(
      /^cannot open the cluster: database database_\d+ has none; create it with .* cluster init <url>$/,
    );
    expect(await hasSchema(database)).toBe(false);
  });

  test("with the tables of another version is refused", async () => {
    const database = await create();
    await initPostgres(server.url(database), 1);
    await inside(database, async (sql) => await sql`UPDATE heartline.cluster SET format = 2`);
    expect(await refused(openPostgres(server.url(database)))).toBe(
      "cannot open the cluster: its tables have format 2, and this version reads 1; use the version that wrote them",
    );
  });

  test("that does not exist, or a wrong user or password, is refused in one line by init and open", async () => {
    const wrong = [
      [server.url("nowhere"), 'database "nowhere" does not exist; create the database, or correct the URL'],
      [server.url("postgres", "heartline", "wrong"), "password authentication failed for user"],
      [server.url("postgres", "nobody"), "password authentication failed for user"],
      [`${server.url("postgres")}?sslmode=require`, "Server does not support SSL"],
      [
        `${server.url("postgres")}?sslmode=verify-full&sslrootcert=/nowhere.pem`,
        "Unable to access caFile path; correct the host or sslrootcert in the URL",
      ],
      [`${server.url("postgres")}?nosuch=1`, 'unrecognized configuration parameter "nosuch"'],
    ] as const;
    for (const [url, reason] of wrong) {
      for (const call of [(url: string) => initPostgres(url, 1), openPostgres])
        expect(await refused(call(url))).toStartWith(`cannot open PostgreSQL: 127.0.0.1:${server.port}: ${reason}`);
    }
    expect(await hasSchema("postgres")).toBe(false);
  });

  test("in which the user may not create a schema gets a cluster when an administrator creates the schema", async () => {
    const database = await create();
    await admin.unsafe("CREATE USER limited PASSWORD 'engine-secret'");
    const url = server.url(database, "limited");
    expect(await refused(initPostgres(url, 1))).toBe(
      `cannot create the cluster: permission denied for database ${database}; grant CREATE on the database to this user`,
    );
    expect(await hasSchema(database)).toBe(false);
    await inside(database, async (sql) => await sql`CREATE SCHEMA heartline AUTHORIZATION limited`);
    await initPostgres(url, 1);
    expect(await (await open(url)).append(0, 0, Buffer.from("1"))).toEqual({ stored: true });
  });

  test("whose tables the user may not read or write is a ClusterError, also later", async () => {
    const database = await create();
    await initPostgres(server.url(database), 1);
    await admin.unsafe("CREATE USER reader PASSWORD 'engine-secret'");
    const url = server.url(database, "reader");
    const denied = "PostgreSQL refuses: permission denied for";
    expect(await refused(openPostgres(url))).toStartWith(denied);
    await inside(
      database,
      async (sql) =>
        await sql`GRANT USAGE ON SCHEMA heartline TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA heartline TO reader`.simple(),
    );
    const log = await open(url);
    expect(await log.state(0)).toMatchObject({ head: 0 });
    expect(await refused(log.append(0, 0, Buffer.from("1")))).toStartWith(denied);
  });

  test("whose server has fsync off is usable, with a warning", async () => {
    const url = server.url(await create());
    await initPostgres(url, 1);
    expect((await open(url)).warnings).toEqual([
      "PostgreSQL has fsync off: a power failure loses acknowledged messages; set fsync = on",
    ]);
  });

  test("is used through two connections at most, whatever is called at the same time", async () => {
    const database = await create();
    const connections = async (): Promise<number> => {
      const [{ count }] = await admin`SELECT count(*) FROM pg_stat_activity WHERE datname = ${database}`;
      return Number(count);
    };
    await initPostgres(server.url(database), 1);
    while ((await connections()) > 0) await Bun.sleep(1); // The server ends a closed connection a moment later.
    const log = await open(server.url(database));
    await Promise.all(
      Array.from({ length: 50 }, (_, i) => [log.state(0), log.snapshot(0), log.beat(0, i, OWNER)]).flat(),
    );
    expect(await connections()).toBeLessThanOrEqual(2);
  });

  test("with numbers of more than 32 bits is appended to and read", async () => {
    const database = await create();
    await initPostgres(server.url(database), 1);
    const head = 5_000_000_000;
    await inside(database, async (sql) => await sql`UPDATE heartline.shard SET head = ${head}, snapshot = ${head - 1}`);
    const log = await open(server.url(database));
    expect(await log.claim(0, head, Buffer.from("opened"), OWNER)).toEqual({ stored: true });
    expect(await log.append(0, head + 1, Buffer.from("next"))).toEqual({ stored: true });
    expect(await log.publishSnapshot(0, { epoch: head + 1, sequence: head + 2 }, none())).toBe(true);
    expect(await log.state(0)).toMatchObject({ head: head + 2, epoch: head + 1, snapshot: head + 2 });
    await log.trim(0);
    expect(await log.beat(0, head + 1, OWNER)).toBe(true);
  });

  test("with a record after its head is a ClusterError", async () => {
    const database = await create();
    await initPostgres(server.url(database), 1);
    const log = await open(server.url(database));
    await log.append(0, 0, Buffer.from("1"));
    await inside(database, async (sql) => await sql`UPDATE heartline.shard SET head = 0`);
    expect(await refused(log.append(0, 0, Buffer.from("other")))).toContain("contradict each other");
  });

  test("that has lost records of a snapshot does not take the snapshot", async () => {
    const database = await create();
    await initPostgres(server.url(database), 1);
    const log = await open(server.url(database));
    await log.claim(0, 0, Buffer.from("1"), OWNER);
    expect(await refused(log.publishSnapshot(0, { epoch: 1, sequence: 2 }, none()))).toContain("has lost records");
    expect(await log.snapshot(0)).toBeNull();
  });

  test("in which another session holds a lock rejects an append after 5 s, and stores it at most once", async () => {
    const database = await create();
    await initPostgres(server.url(database), 1);
    const log = await open(server.url(database));
    await inside(database, async (sql) => {
      await sql.begin(async (sql) => {
        await sql`SELECT 1 FROM heartline.shard FOR UPDATE`;
        expect(await failure(log.append(0, 0, Buffer.from("1")))).not.toBeInstanceOf(ClusterError);
      });
    });
    const again = await log.append(0, 0, Buffer.from("1"));
    if (!again.stored) expect(again.head).toBe(1);
    expect((await log.state(0)).head).toBe(1);
  }, 20_000);

  test("is created by the command, which prints neither the URL nor the password", async () => {
    const url = server.url(await create());
    const first = await run("src/main.ts", "cluster", "init", url, "--shards", "4");
    expect(first.out).toMatch(
      /^created a cluster with 4 shards on PostgreSQL \d+\S* at 127\.0\.0\.1:\d+, database \w+\n$/,
    );
    expect(first.err).toMatch(/^heartline: warning: PostgreSQL has fsync off: [^\n]+\n$/);
    expect(first.code).toBe(0);
    const second = await run("src/main.ts", "cluster", "init", url);
    expect(second).toMatchObject({ out: "", code: 1 });
    expect(second.err).toMatch(/^heartline: cannot create the cluster: [^\n]+\n$/);
    expect(first.err + second.err).not.toContain("engine-secret");
  });
});

async function* none(): AsyncGenerator<Uint8Array> {}

describe.skipIf(!has)("a URL with several servers of PostgreSQL", () => {
  const urlOf = (...servers: { address: string }[]): string =>
    `postgres://heartline:engine-secret@${servers.map(({ address }) => address).join()}/postgres`;

  test(
    "uses the first that accepts writes, and follows the primary to the next, but not back",
    async () => {
      const primary = await PostgresEngine.start(FAST);
      await initPostgres(urlOf(primary), 1);
      const standby = await primary.startStandby();
      expect(await refused(openPostgres(urlOf(standby)))).toBe(
        `cannot open PostgreSQL: ${standby.address} is a standby; name the primary in the URL`,
      );
      const log = await open(urlOf({ address: "127.0.0.1:1" }, standby, primary));
      expect(log.engine).toContain(primary.address);
      expect(await log.append(0, 0, Buffer.from("1"))).toEqual({ stored: true });
      await isReplayed(primary);
      await primary.kill();
      expect(await awayReason(log)).toContain(`${primary.address} cannot be reached`);
      standby.promote();
      expect(await log.state(0)).toMatchObject({ head: 1 });
      expect(log.engine).toContain(standby.address);
      expect(await log.append(0, 1, Buffer.from("2"))).toEqual({ stored: true });
      await standby.kill();
      await primary.restart();
      expect(await awayReason(log)).toContain(`${primary.address} is an old primary: its timeline 1 is lower than 2`);
      await standby.restart();
      expect(await log.state(0)).toMatchObject({ head: 2 });
    },
    TIMEOUT_MS,
  );

  test(
    "refuses another database system, and another cluster, once one is in use",
    async () => {
      const [used, other] = await Promise.all([PostgresEngine.start(FAST), PostgresEngine.start(FAST)]);
      await initPostgres(urlOf(used), 1);
      await initPostgres(urlOf(other), 1);
      const log = await open(urlOf(used, other));
      expect(await log.append(0, 0, Buffer.from("1"))).toEqual({ stored: true });
      await used.kill();
      expect(await awayReason(log)).toContain(`${other.address} is another database system than before`);
      await used.restart();
      expect(await log.state(0)).toMatchObject({ head: 1 });
      const admin = new SQL(used.url("postgres"), { max: 1 });
      await admin`DROP SCHEMA heartline CASCADE`;
      await admin.close();
      await initPostgres(urlOf(used), 1);
      await used.kill();
      await used.restart();
      expect(await awayReason(log)).toContain(`${used.address} has another cluster than before`);
    },
    TIMEOUT_MS,
  );

  test(
    "does not acknowledge before a synchronous standby, also when the user has synchronous_commit off",
    async () => {
      const server = await PostgresEngine.start(FAST);
      await initPostgres(server.url("postgres"), 1);
      const admin = new SQL(server.url("postgres"), { max: 1 });
      await admin`ALTER USER heartline SET synchronous_commit = off`;
      await admin`ALTER SYSTEM SET synchronous_standby_names = 'nowhere'`;
      await admin`SELECT pg_reload_conf()`;
      const log = await open(server.url("postgres"));
      expect(await failure(log.append(0, 0, Buffer.from("1")))).not.toBeInstanceOf(ClusterError);
      await admin`ALTER SYSTEM RESET synchronous_standby_names`;
      await admin`SELECT pg_reload_conf()`;
      await admin.close();
      expect(await log.append(0, 0, Buffer.from("1"))).toEqual({ stored: false, head: 1 });
    },
    TIMEOUT_MS,
  );
});

/** Resolves when the standbys have everything. */
async function isReplayed(primary: PostgresEngine): Promise<void> {
  const sql = new SQL(primary.url("postgres"), { max: 1 });
  for (let isLate = true; isLate; await Bun.sleep(10)) {
    const rows = await sql`SELECT replay_lsn = pg_current_wal_lsn() AS done FROM pg_stat_replication`;
    isLate = !(rows.length > 0 && rows.every(({ done }: { done: boolean }) => done));
  }
  await sql.close();
}
