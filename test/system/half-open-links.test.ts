/** Two shards whose connections stop to carry bytes and stay open: a proxy holds them, or a network drops all packets. */
import { afterEach, expect, test } from "bun:test";
import { join } from "node:path";
import { NEIGHBOUR_AWAY_MS } from "../../src/limits.ts";
import { root, runCommand } from "../support/command.ts";
import type { WireClient } from "../support/wire.ts";
import { WireShard } from "../support/wire-shard.ts";
import { Proxy } from "./chaos/fault-proxy.ts";

const LIMIT_MS = 90_000;
const SITE = { cwd: root, env: { PATH: process.env.PATH! } };

const shards: WireShard[] = [];
const proxies: Proxy[] = [];
/** Accepts connections and says nothing. */
const hole = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => {} } });

afterEach(async () => {
  for (const proxy of proxies.splice(0)) proxy.stop();
  for (const { wire } of shards.splice(0)) await wire.stop();
  hole.stop(true);
});

/** A shard that knows no other one. */
function start(shard: number): WireShard {
  const started = new WireShard([], shard);
  shards.push(started);
  return started;
}

/** The way from one shard to the other. */
function connect({ directory }: WireShard, { owner }: WireShard): Proxy {
  const proxy = new Proxy(owner.port);
  proxies.push(proxy);
  directory.set(owner.shard, { ...owner, port: proxy.port }, owner.epoch);
  return proxy;
}

function freeze(proxy: Proxy): void {
  proxy.moveTo(hole.port);
  for (const { up, down } of proxy.connections) {
    up.stall(LIMIT_MS);
    down.stall(LIMIT_MS);
  }
}

async function logged({ wire }: WireShard, pattern: RegExp): Promise<void> {
  while (!wire.logged.some((line) => pattern.test(line))) await Bun.sleep(5);
}

/** Lines without `waiting`, and those about who is online. */
async function replies(client: WireClient, count: number): Promise<string[]> {
  const lines: string[] = [];
  while (lines.length < count) {
    const line = await client.line();
    if (!/^(waiting|joined|left)/.test(line)) lines.push(line);
  }
  return lines;
}

test(
  "both sides notice it within seconds, later requests are busy, and earlier ones are acted on once when it is over",
  async () => {
    const [first, second] = [start(0), start(1)];
    const forwards = connect(second, first); // Shard 1 dials it for the requests of shard 0.
    const backwards = connect(first, second);
    await Promise.all([first.linked(), second.linked()]);
    const [bob, alice] = [await first.wire.login("bob"), await second.wire.login("alice")];
    bob.sendLines("message alice one");
    expect(await replies(bob, 1)).toEqual(["ok sent"]);
    for (const proxy of [forwards, backwards]) freeze(proxy);
    bob.sendLines("message alice two", "message alice three");
    const silent = /"event":"link_lost".*"reason":"silent"/;
    await Promise.all([logged(first, silent), logged(second, silent)]);
    const { neighbours } = first.wire.server.measured.core.chat;
    while (neighbours!.all[1]!.session !== null) await Bun.sleep(5);
    bob.sendLines("message alice four");
    while (!bob.lines.includes("waiting")) await Bun.sleep(5);
    for (const [proxy, { owner }] of [[forwards, first] as const, [backwards, second] as const]) {
      proxy.moveTo(owner.port);
      proxy.cut();
    }
    await Promise.all([first.linked(), second.linked()]);
    const [two, three, four] = await replies(bob, 3);
    expect([two, three, four]).toEqual(["ok sent", "ok sent", expect.stringMatching(/^err busy /)]);
    bob.sendLines("message alice five");
    expect(await replies(bob, 1)).toEqual(["ok sent"]);
    expect(await replies(alice, 4)).toEqual(["one", "two", "three", "five"].map((text) => `message bob ${text}`));
  },
  LIMIT_MS,
);

test(
  "links over a network that drops all packets for eight seconds are back soon afterwards, and messages arrive",
  async () => {
    const drop = ["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "pfifo", "limit", "0"];
    const isPossible = Bun.which("unshare") !== null && (await runCommand(drop, SITE)).code === 0;
    if (!isPossible) return console.warn("SKIPPED: a network that drops packets (it needs root, unshare and tc)");
    const script = join(import.meta.dir, "dark-network.ts");
    const { out, err } = await runCommand(["unshare", "--net", process.execPath, script], SITE);
    expect(err).toBe("");
    const { noticedMs, healedMs, messages, losses } = JSON.parse(out);
    expect(messages).toEqual(["message bob one", "message bob two"]);
    expect(losses).toContain("silent");
    expect(noticedMs).toBeGreaterThan(NEIGHBOUR_AWAY_MS);
    expect(healedMs).toBeLessThan(LIMIT_MS / 2);
  },
  LIMIT_MS,
);
