/** Requests that concern users of other shards, over real processes and a real engine. */
import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ClusterServer, type ClusterServerChoices } from "../support/cluster-server.ts";
import { useEngine } from "../support/engine-hooks.ts";
import { NATS, POSTGRES } from "../support/engines.ts";
import { ServerProcess } from "../support/process.ts";
import { WireClient } from "../support/wire.ts";

const LIMIT_MS = 60_000;
const SHARDS = 3;
/** Two users of each shard, in the order of shards. */
const USERS = ["ivan", "judy", "dave", "grace", "alice", "bob"];
/** The shards whose owners are killed: of the sender and of the recipient. */
const VICTIMS: [what: string, shards: number[]][] = [
  ["both servers", [2, 0]],
  ["the sender's server", [2]],
];
const HOUR_MS = 3_600_000;
const FAKETIME = ["x86_64", "aarch64"]
  .map((machine) => `/usr/lib/${machine}-linux-gnu/faketime/libfaketime.so.1`)
  .find((path) => existsSync(path));
if (FAKETIME === undefined)
  console.warn("\n  SKIPPED: servers whose clocks differ by hours (they need the package faketime)\n");

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const CREDENTIALS = join(folder, "users.txt");
const COPIES = join(folder, "copies");
mkdirSync(COPIES);
writeFileSync(CREDENTIALS, USERS.map((user) => `${user} secret\n`).join(""));

const clients: WireClient[] = [];

afterEach(async () => {
  for (const client of clients.splice(0)) client.cut();
  await ServerProcess.killAll();
});
afterAll(() => rmSync(folder, { recursive: true }));

/** A session of that user; `options` are those of the login. */
async function login(
  { port }: ClusterServer,
  user: string,
  options = "",
): Promise<[client: WireClient, token: string]> {
  const client = await WireClient.connect(port);
  clients.push(client);
  client.sendLines(`login ${user} secret${options}`);
  const reply = await client.line();
  expect(reply).toMatch(/^ok \S{24} 35/);
  return [client, reply.split(" ")[1]!];
}

/** Lines without presence. */
async function line(client: WireClient): Promise<string> {
  for (;;) {
    const next = await client.line();
    if (!/^(joined|left|waiting)/.test(next)) return next;
  }
}

async function ask(client: WireClient, request: string): Promise<string> {
  client.sendLines(request);
  return line(client);
}

for (const engine of [POSTGRES, NATS]) {
  const { name, isInstalled } = engine;
  describe.skipIf(!isInstalled)(`three shards over ${name}`, () => {
    const used = useEngine(engine, SHARDS, LIMIT_MS);

    /** The owners by shard, each with links to the others, and spares. `choices`: of these servers, in any order. */
    async function start(
      spares = 1,
      choices: readonly Partial<ClusterServerChoices>[] = [],
    ): Promise<[owners: ClusterServer[], ...ClusterServer[]]> {
      const newServer = (_: unknown, i: number): Promise<ClusterServer> =>
        new ClusterServer(used.url, { credentials: CREDENTIALS, copies: COPIES, ...choices[i] }).start();
      const owners: ClusterServer[] = [];
      for (const server of await Promise.all(Array.from({ length: SHARDS }, newServer))) {
        while ((await server.shard()) === null) await Bun.sleep(20);
        owners[(await server.shard())!] = server;
      }
      for (const server of owners) await linked(server);
      const others = await Promise.all(Array.from({ length: spares }, (_, i) => newServer(_, SHARDS + i)));
      for (const spare of others) await spare.is("spare");
      return [owners, ...others];
    }

    /** The server has links to the owners of all other shards. */
    async function linked(server: ClusterServer): Promise<void> {
      while ((await server.metric("heartline_links")) < SHARDS - 1) await Bun.sleep(20);
    }

    /** Sends numbered messages, one by one; the texts that got ok. */
    async function sendUntil(client: WireClient, to: string, isOver: () => boolean): Promise<string[]> {
      const accepted: string[] = [];
      for (let i = 1; !isOver(); i++) {
        const reply = await ask(client, `message ${to} text ${i}`);
        if (reply.startsWith("ok ")) accepted.push(`text ${i}`);
        else expect(reply).toMatch(/^err busy /);
      }
      return accepted;
    }

    /** The texts of the messages until `last`, from a session that continues after an earlier one. */
    async function textsUntil(client: WireClient, last: string): Promise<string[]> {
      const texts: string[] = [];
      while (texts.at(-1) !== last) {
        const next = await line(client);
        const [, text] = /^(?:message|stored) alice (?:\d+ )?(text \d+)$/.exec(next) ?? [];
        if (text === undefined) throw new Error(`received ${next}`);
        texts.push(text);
      }
      return texts;
    }

    test.each(VICTIMS.slice(0, name === POSTGRES.name ? 2 : 1))(
      "kill -9 of %s: with after= and the requests repeated, no message is lost or doubled",
      async (_what, victims) => {
        const [owners, ...spares] = await start(victims.length);
        const [ivan, toIvan] = await login(owners[1]!, "ivan", " resumable");
        const [alice, toAlice] = await login(owners[1]!, "alice", " resumable");
        const requests = Array.from({ length: 200 }, (_, i) => `message ivan text ${i + 1}`);
        alice.sendLines(...requests);
        expect(await ivan.line()).toBe("joined alice");
        const texts = await textsUntil(ivan, "text 20");
        const bytes = texts.reduce((sum, text) => sum + `message alice ${text}\n`.length, "joined alice\n".length);
        for (const shard of victims) owners[shard]!.process.kill("SIGKILL");
        for (const spare of spares) while ((await spare.shard()) === null) await Bun.sleep(20);
        // In both directions: a request for a user of a shard without a link to this one gets busy.
        for (const server of [...spares, ...owners.filter((_, shard) => !victims.includes(shard))])
          await linked(server);
        const hasMoved = victims.includes(0);
        const [reader] = hasMoved ? await login(owners[1]!, "ivan", ` resumable after=${toIvan}:${bytes}`) : [ivan];
        const again = await WireClient.connect(owners[1]!.port);
        clients.push(again);
        again.sendLines(`login alice secret resumable after=${toAlice}:0`);
        const [, received] = / received=(\d+)/.exec(await again.line())!;
        let at = 0;
        const rest = requests.filter((request) => (at += request.length + 1) > Number(received));
        again.sendLines(...rest, "message ivan text 0");
        texts.push(...(await textsUntil(reader!, "text 0")));
        expect(texts).toEqual([...requests.map((each) => each.slice("message ivan ".length)), "text 0"]);
        for (let i = 0; i <= rest.length; i++) expect(await line(again)).toMatch(/^ok /);
      },
      LIMIT_MS,
    );

    // Nothing of what follows depends on the engine.
    if (name !== POSTGRES.name) return;

    test(
      "users of different shards send messages to each other, and block each other, at any server",
      async () => {
        const [owners, spare] = (await start()) as [ClusterServer[], ClusterServer];
        const [alice] = await login(owners[0]!, "alice");
        const [ivan] = await login(owners[1]!, "ivan", " resumable");
        const [dave] = await login(spare, "dave");
        expect(await ask(alice, "message ivan hello  you")).toBe("ok sent");
        expect(await line(ivan)).toBe("message alice hello  you");
        expect(await ask(ivan, "message alice hi")).toBe("ok sent");
        expect(await line(alice)).toBe("message ivan hi");
        expect(await ask(dave, "message judy later")).toBe("ok stored");
        expect(await ask(dave, "message nobody hi")).toBe("err unknown_user");
        expect(await ask(ivan, "block dave")).toBe("ok");
        expect(await ask(dave, "message ivan hi")).toBe("err blocked");
        expect(await ask(ivan, "unblock dave")).toBe("ok");
        expect(await ask(dave, "message ivan hi")).toBe("ok sent");
        expect(await line(ivan)).toBe("message dave hi");
        const [judy] = await login(owners[2]!, "judy");
        expect(await line(judy)).toMatch(/^stored dave \d+ later$/);
      },
      LIMIT_MS,
    );

    test.each(["SIGKILL", "SIGSTOP"] as const)(
      "%s of the recipient's server loses and doubles no message, and the sender waits or gets busy",
      async (signal) => {
        const [owners, spare] = (await start()) as [ClusterServer[], ClusterServer];
        const [alice] = await login(owners[2]!, "alice");
        const [ivan, token] = await login(owners[1]!, "ivan", " resumable");
        let isOver = false;
        const sending = sendUntil(alice, "ivan", () => isOver);
        const texts = await textsUntil(ivan, "text 100");
        const kill = (name: NodeJS.Signals): void => owners[0]!.process.kill(name);
        kill(signal);
        while ((await spare.shard()) !== 0) await Bun.sleep(20);
        if (signal === "SIGSTOP") kill("SIGCONT");
        await linked(spare);
        const bytes = texts.reduce((sum, text) => sum + `message alice ${text}\n`.length, 0);
        const [again] = await login(owners[1]!, "ivan", ` resumable after=${token}:${bytes}`);
        isOver = true;
        const accepted = await sending;
        expect(await ask(alice, "message ivan text 0")).toMatch(/^ok /);
        texts.push(...(await textsUntil(again, "text 0")));
        expect(texts).toEqual([...accepted, "text 0"]);
        for (const name of ["link_up", "link_lost"]) expect(owners[1]!.process.stderr).toContain(`"event":"${name}"`);
      },
      LIMIT_MS,
    );

    test.skipIf(FAKETIME === undefined)(
      "clocks that differ by hours change nothing: messages arrive once, also after a takeover",
      async () => {
        const clocks = [1, -1, 0, -2].map((hours) => ({
          variables: {
            LD_PRELOAD: FAKETIME!,
            FAKETIME: `${hours < 0 ? "" : "+"}${hours}h`,
            FAKETIME_DONT_FAKE_MONOTONIC: "1",
          },
        }));
        const [owners, spare] = (await start(1, clocks)) as [ClusterServer[], ClusterServer];
        const hours = [...owners, spare].map(({ process }) =>
          Math.round((Number(/"time":(\d+)/.exec(process.stderr)![1]) - Date.now()) / HOUR_MS),
        );
        expect(hours.toSorted((a, b) => a - b).join()).toBe("-2,-1,0,1");
        const [ivan] = await login(owners[1]!, "ivan");
        const [dave] = await login(owners[0]!, "dave");
        const [alice] = await login(owners[2]!, "alice");
        const before = owners.map(({ process }) => process.stderr.length);
        for (let i = 0; i < 20; i++) {
          for (const [from, user] of [
            [ivan, "ivan"],
            [alice, "alice"],
          ] as const) {
            expect(await ask(from, `message dave from ${user}`)).toBe("ok sent");
            expect(await line(dave)).toBe(`message ${user} from ${user}`);
          }
        }
        expect(await ask(dave, "message bob later")).toBe("ok stored");
        for (const [i, { process }] of owners.entries())
          expect(process.stderr.slice(before[i])).not.toMatch(/deposed|link_lost|no_owner/);
        owners[2]!.process.kill("SIGKILL");
        while ((await spare.shard()) !== 2) await Bun.sleep(20);
        await Promise.all([owners[0]!, owners[1]!, spare].map(linked));
        const [bob] = await login(owners[0]!, "bob");
        expect(await line(bob)).toMatch(/^stored dave \d{13} later$/);
        expect(await ask(ivan, "message bob hi")).toBe("ok sent");
        expect(await line(bob)).toBe("message ivan hi");
        expect(await ask(bob, "message dave hi")).toBe("ok sent");
        expect(await line(dave)).toBe("message bob hi");
      },
      LIMIT_MS,
    );
  });
}
