/** Several processes over a real engine, each of which owns a shard or is a spare; clients are at any of them. */
import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { shardOf } from "../../src/protocol/shard.ts";
import { ClusterServer, type ClusterServerChoices } from "../support/cluster-server.ts";
import { useEngine } from "../support/engine-hooks.ts";
import { NATS, POSTGRES } from "../support/engines.ts";
import { freePort } from "../support/free-port.ts";
import { ServerProcess, runWith } from "../support/process.ts";
import { WireClient } from "../support/wire.ts";

const LIMIT_MS = 60_000;
const SHARDS = 3;
/** Two users of each shard. */
const USERS = [
  ["ivan", "judy"],
  ["dave", "grace"],
  ["alice", "bob"],
] as const;

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const CREDENTIALS = join(folder, "users.txt");
const COPIES = join(folder, "copies");
mkdirSync(COPIES);
writeFileSync(
  CREDENTIALS,
  USERS.flat()
    .map((user) => `${user} secret\n`)
    .join(""),
);

const clients: WireClient[] = [];

afterEach(async () => {
  for (const client of clients.splice(0)) client.cut();
  await ServerProcess.killAll();
});
afterAll(() => rmSync(folder, { recursive: true }));

async function connect({ port }: ClusterServer): Promise<WireClient> {
  const client = await WireClient.connect(port);
  clients.push(client);
  return client;
}

/** A resumable session of that user; `after` are the options of the login. */
async function login(server: ClusterServer, user: string, after = ""): Promise<[client: WireClient, token: string]> {
  const client = await connect(server);
  client.sendLines(`login ${user} secret resumable${after}`);
  const reply = await client.line();
  expect(reply).toMatch(/^ok \S{24} 35/);
  return [client, reply.split(" ")[1]!];
}

/** The next line without presence must be this one. */
async function expectNext(client: WireClient, expected: string): Promise<void> {
  let line = await client.line();
  while (/^(joined|left) /.test(line)) line = await client.line();
  expect(line).toBe(expected);
}

async function expectAnswer(client: WireClient, request: string, reply: string): Promise<void> {
  client.sendLines(request);
  await expectNext(client, reply);
}

test("the users of this file are of the shards that it says", () => {
  for (const [shard, users] of USERS.entries())
    for (const user of users) expect(shardOf(Buffer.from(user), 0, user.length, SHARDS)).toBe(shard);
});

for (const engine of [POSTGRES, NATS]) {
  const { name, isInstalled } = engine;
  describe.skipIf(!isInstalled)(`three shards over ${name}`, () => {
    const used = useEngine(engine, SHARDS, LIMIT_MS);

    const newServer = (choices: Partial<ClusterServerChoices> = {}): ClusterServer =>
      new ClusterServer(used.url, { credentials: CREDENTIALS, copies: COPIES, ...choices });

    /** The owners by shard, and a spare. */
    async function start(
      choices: Partial<ClusterServerChoices> = {},
    ): Promise<[owners: ClusterServer[], spare: ClusterServer]> {
      const servers = await Promise.all(Array.from({ length: SHARDS }, () => newServer(choices).start()));
      const owners: ClusterServer[] = [];
      for (const server of servers) {
        await server.is("ready");
        while ((await server.shard()) === null) await Bun.sleep(20);
        owners[(await server.shard())!] = server;
      }
      expect(Object.keys(owners)).toEqual(["0", "1", "2"]);
      const spare = await newServer(choices).start();
      await spare.is("spare");
      return [owners, spare];
    }

    test(
      "a client of any shard logs in, resumes and logs in again with after= at any server",
      async () => {
        const [owners, spare] = await start();
        let earlier: { user: string; client: WireClient } | null = null;
        for (const server of [owners[1]!, spare]) {
          for (const [first, second] of USERS) {
            const [one] = await login(server, first);
            if (earlier !== null) {
              // The users of the round before may be of another shard: what is left of them comes later.
              await expectAnswer(earlier.client, "logout", "ok");
              await one.until(`left ${earlier.user} logout`);
            }
            const [two, token] = await login(owners[0]!, second);
            await one.expectLines(`joined ${second}`);
            await one.expectReply(`message ${second} hi`, "ok sent");
            await two.expectLines(`message ${first} hi`);
            two.cut();
            const again = await connect(spare);
            again.sendLines(`resume ${token} 0`);
            await again.expectLines("ok 0", `message ${first} hi`);
            await again.expectReply("logout", "ok");
            await one.expectLines(`left ${second} logout`);
            const [three] = await login(server, second, ` after=${token}:${`message ${first} hi\n`.length}`);
            await one.expectLines(`joined ${second}`);
            await three.expectReply("logout", "ok");
            await one.expectLines(`left ${second} logout`);
            earlier = { user: first, client: one };
          }
        }
      },
      LIMIT_MS,
    );

    test(
      "when the owner of a shard is killed, a spare owns it, and the sessions of the others go on",
      async () => {
        const [owners, spare] = await start();
        const [dave] = await login(owners[2]!, "dave"); // Relayed by the one that is not killed.
        const [ivan] = await login(spare, "ivan"); // Relayed by the one that becomes an owner.
        const [alice, token] = await login(owners[0]!, "alice");
        const [bob] = await login(spare, "bob");
        await expectAnswer(bob, "message alice hi", "ok sent");
        owners[1]!.process.kill("SIGKILL");
        await dave.rest();
        while ((await spare.shard()) !== 1) await Bun.sleep(20);
        const [again] = await login(owners[0]!, "dave");
        await expectAnswer(again, "message grace hi", "ok stored");
        await expectNext(alice, "message bob hi");
        await expectAnswer(alice, "message bob hi again", "ok sent");
        await expectNext(bob, "message alice hi again");
        await expectAnswer(ivan, "message judy hi", "ok stored");
        alice.cut();
        const back = await connect(spare);
        await back.expectReply(`resume ${token} 0`, "ok 21");
        expect(spare.process.stderr).toContain("this server owns shard 1 from record");
      },
      LIMIT_MS,
    );

    test(
      "workers share one port, each owns a shard or is a spare, and one that is killed starts again",
      async () => {
        const [port, listen] = [freePort(), freePort()];
        const options = ["--workers", "4", "--port", String(port), "--cluster-listen", `127.0.0.1:${listen}`];
        const data = join(folder, `workers-${name.length}`);
        const common = ["--host", "127.0.0.1", "--credentials", CREDENTIALS, "--data", data];
        const group = new ServerProcess(
          { sockets: [], environment: { HEARTLINE_CLUSTER: used.url, TMPDIR: COPIES } },
          ...common,
          ...options,
        );
        expect(await group.port()).toBe(port);
        await group.logs(/("event":"claimed"[^]*){3}/);
        expect(group.stdout.match(/listening/g)).toHaveLength(1);
        const at = { port } as ClusterServer;
        for (const user of USERS.flat()) await login(at, user);
        const [, worker] = /"worker":(\d),"event":"claimed","shard":\d/.exec(group.stderr) ?? [];
        const killed = Bun.spawnSync(["pgrep", "-P", String(group.pid)])
          .stdout.toString()
          .trim()
          .split("\n");
        expect(killed).toHaveLength(4);
        for (const each of killed) process.kill(Number(each), "SIGKILL");
        await group.logs(new RegExp(`"event":"worker_exit","worker":${worker},"code":137`));
        await group.logs(/("event":"claimed"[^]*){6}/);
        for (const user of USERS.flat()) await login(at, user);
        group.kill("SIGHUP");
        await group.logs(/("configuration and credentials reloaded[^]*){3}/);
        group.kill("SIGTERM");
        expect(await group.exits()).toBe(0);
      },
      LIMIT_MS,
    );

    // Its tables can be changed while it runs.
    if (engine === POSTGRES)
      test(
        "when the engine has lost records, workers and a spare that has seen them exit with 65 and start no more",
        async () => {
          const options = ["--workers", "3", "--port", String(freePort()), "--cluster-listen", "127.0.0.1:0"];
          const group = new ServerProcess(
            { sockets: [], environment: { HEARTLINE_CLUSTER: used.url, TMPDIR: COPIES } },
            ...["--host", "127.0.0.1", "--credentials", CREDENTIALS, ...options],
          );
          const port = await group.port();
          await group.logs(/("event":"claimed"[^]*){3}/);
          const spare = await newServer().start();
          await spare.is("spare");
          for (const user of USERS.flat()) await login({ port } as ClusterServer, user);
          const sql = new Bun.SQL(used.url, { max: 1 });
          const seen = async (): Promise<boolean> => {
            const rows: { head: string }[] = await sql`SELECT head FROM heartline.shard ORDER BY shard`;
            const known = rows.map((_, shard) => spare.metric(`heartline_cluster_head{shard="${shard}"}`));
            return (await Promise.all(known)).join() === rows.map(({ head }) => head).join();
          };
          while (!(await seen())) await Bun.sleep(20);
          await sql.begin(async (all) => {
            await all`DELETE FROM heartline.log USING heartline.shard WHERE log.shard = shard.shard AND seq = head`;
            await all`UPDATE heartline.shard SET head = head - 1`;
          });
          await sql.close();
          expect(await group.exits()).toBe(65);
          expect(group.stderr).toMatch(/"event":"cluster_error".*the engine has lost records of shard \d: /);
          expect(group.stderr).toMatch(
            /"event":"worker_exit","worker":\d,"code":65,.*all workers stop, and none starts/,
          );
          expect(group.stderr).not.toContain("it starts again");
          expect(await spare.process.exits()).toBe(65);
          expect(spare.process.stderr).toMatch(
            /^heartline: the engine has lost records of shard \d: .*restore a backup$/m,
          );
        },
        LIMIT_MS,
      );

    test(
      "ctl cluster shows the owners of all shards at each server, and a shard that nobody owns",
      async () => {
        const data = join(folder, `data-${name.length}`);
        const servers = await Promise.all([newServer({ data }).start(), newServer().start()]);
        for (const server of servers) while ((await server.shard()) === null) await Bun.sleep(20);
        let out = "";
        while (out.split("nobody").length !== 2) {
          const answer = await runWith({}, "src/main.ts", "ctl", "cluster", "--data", data);
          expect(answer.err).toBe("");
          ({ out } = answer);
        }
        expect(out.match(/^\d +127\.0\.0\.1:\d+ .* [\d.]+ s$/gm)).toHaveLength(2);
        expect(out.match(/^\d +nobody .* [\d.]+ s$/gm)).toHaveLength(1);
        expect(out).toContain(`this server: owner of shard ${await servers[0].shard()}, 127.0.0.1:`);
        await servers[1].process.logs(/"event":"no_owner".*start another server/);
      },
      LIMIT_MS,
    );
  });
}
