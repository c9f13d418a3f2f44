import { SQL } from "bun";
import { afterAll } from "bun:test";
import { openPostgres } from "../../src/cluster/postgres-log.ts";
import { initPostgres } from "../../src/cluster/postgres-tables.ts";
import { testSharedLog } from "../cluster/conformance.ts";
import { PostgresEngine, postgresPrograms } from "../support/postgres-engine.ts";

afterAll(PostgresEngine.closeAll);

if (postgresPrograms !== null) {
  testSharedLog("PostgreSQL", { server: true, damage: true, exactTrim: true }, async (shards) => {
    const server = await PostgresEngine.start();
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
