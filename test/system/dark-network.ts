/**
 * Two shards in a network namespace of their own, whose loopback drops all packets for a while. Run by
 * half-open-links.test.ts: `unshare --net bun dark-network.ts`. Prints what happened, as JSON.
 */
import { CLOCK } from "../../src/server/server.ts";
import type { WireClient } from "../support/wire.ts";
import { WireShard } from "../support/wire-shard.ts";

const DARK_MS = 8_000;

function run(...command: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(command);
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr.toString()}`);
}

async function until(isReached: () => boolean): Promise<number> {
  const beganMs = CLOCK.nowMs();
  while (!isReached()) await Bun.sleep(5);
  return CLOCK.nowMs() - beganMs;
}

const all: WireShard[] = [];

/** A request that is busy is not recorded: it is sent again. */
async function send(from: WireClient, text: string): Promise<void> {
  const isReply = (line: string): boolean => /^(ok|err)/.test(line);
  for (;;) {
    from.lines.length = 0;
    from.sendLines(`message alice ${text}`);
    await until(() => from.lines.some(isReply));
    if (from.lines.includes("ok sent")) return;
    await Bun.sleep(50);
  }
}

run("ip", "link", "set", "lo", "up");
setTimeout(() => {
  console.error(all.map(({ links, wire }) => ({ up: links.up, lost: [...links.lost], logged: wire.logged.slice(-5) })));
  process.exit(1);
}, 50_000);
const [first, second] = [new WireShard(all, 0), new WireShard(all, 1)];
await Promise.all([first.linked(), second.linked()]);
const [bob, alice] = [await first.wire.login("bob"), await second.wire.login("alice")];
await send(bob, "one");

run("tc", "qdisc", "add", "dev", "lo", "root", "pfifo", "limit", "0");
const isSilent = ({ wire }: WireShard): boolean => wire.logged.some((line) => line.includes('"reason":"silent"'));
const isApart = ({ wire }: WireShard): boolean =>
  wire.server.measured.core.chat.neighbours!.all.every((each) => each === undefined || each.session === null);
const noticedMs = await until(() => all.every((shard) => isSilent(shard) && isApart(shard)));
await Bun.sleep(DARK_MS - noticedMs);
run("tc", "qdisc", "del", "dev", "lo", "root");

const healedMs = await until(() => all.every(({ links }) => links.up === 1) && !all.some(isApart));
await send(bob, "two");
await until(() => alice.lines.includes("message bob two"));
const messages = alice.lines.filter((line) => line.startsWith("message"));
const losses = Object.fromEntries([...first.links.lost, ...second.links.lost].filter(([, count]) => count > 0));
console.log(JSON.stringify({ noticedMs, healedMs, messages, losses: Object.keys(losses) }));
process.exit(0);
