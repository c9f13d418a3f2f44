/**
 * The network between two machines is cut for a while, in one direction or both: servers and engines run in network
 * namespaces of their own. Clients reach all of them all the time.
 */
import { readFileSync, statSync } from "node:fs";
import { shardOf } from "../../../src/protocol/shard.ts";
import { type Machine, Network, hostsObstacle } from "../../support/hosts.ts";
import { makeCertificate, writeClusterCertificate } from "../../support/certificate.ts";
import { NatsEngine } from "../../support/nats-engine.ts";
import { PostgresEngine } from "../../support/postgres-engine.ts";
import type { Member } from "../chaos/member.ts";
import { NO_SYNC, type Report, type Stage, judged } from "./stage.ts";
import { type Times, longestGapMs, seconds, table } from "./times.ts";

const SECONDS = [1, 10, 60];
const SPARES = 1;
/** Before a cut and after its end; clients that were away for long come back late. */
const CALM_MS = 5_000;
const SETTLE_MS = 8_000;
const SETTLE_SHARE = 1 / 3;
/** Users that receive nothing for less than this may have been sent nothing. */
const GAP_MS = 2_000;
/** Variable of the process that is in a namespace of its own already. */
export const INSIDE = "DRILL_INSIDE";

/** Two machines whose network is cut. Which of them they are is decided when it happens. */
interface Ends {
  one: string;
  other: string;
  machines: () => [Machine, Machine] | Promise<[Machine, Machine]>;
  ways: readonly Way[];
}

/** Which packets are dropped: those from the first one to the other, those from the other, or all. */
type Way = "there" | "back" | "both";

function nameOf({ one, other }: Ends, way: Way): string {
  if (way === "both") return `between ${one} and ${other}`;
  return way === "there" ? `from ${one} to ${other}` : `from ${other} to ${one}`;
}

/** A cut that is over, with times of the wall clock. */
interface PastCut {
  what: string;
  ms: number;
  beganMs: number;
  settledMs: number;
  /** How often another server became the owner of a shard. */
  takeovers: number;
  /** The events in the logs of the servers, and how often. */
  events: Map<string, number>;
}

/** Throws an Error for users when this machine has no namespaces. */
export function checkHosts(): void {
  const obstacle = hostsObstacle();
  if (obstacle !== null) throw new Error(`cannot cut a network: ${obstacle}`);
}

export function cuts(stage: Stage): Promise<Report> {
  return new Cuts(stage).run();
}

class Cuts {
  readonly #stage: Stage;
  readonly #network = new Network();
  readonly #machines = new Map<Member, Machine>();
  #postgres: Machine | null = null;
  readonly #nats: { machine: Machine; engine: NatsEngine }[] = [];

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  async run(): Promise<Report> {
    const { options, members } = this.#stage;
    const { shards, seconds: given, steps } = options;
    const url = await this.#startEngine();
    const machines: Machine[] = [];
    for (let i = 0; i < shards + SPARES; i++) machines.push(await this.#network.add());
    await this.#stage.init(url, await certified(machines.map(({ address }) => address)));
    for (const machine of machines) this.#machines.set(this.#stage.add(machine), machine);
    await this.#stage.begin();
    const lengths = given.length === 0 ? SECONDS : given;
    const all = this.#ends.flatMap((ends) =>
      ends.ways.flatMap((way) => lengths.map((s) => ({ ends, way, ms: s * 1_000 }))),
    );
    const past: PastCut[] = [];
    for (const { ends, way, ms } of all.slice(0, steps)) {
      await Bun.sleep(CALM_MS);
      past.push(await this.#cut(ends, way, ms));
    }
    const outages = members.outages.lines.map((line) => `  ${line}\n`).join("");
    const judgement = await this.#stage.judge();
    const { text, failures } = judged(judgement);
    const rows = past.map((each) => this.#row(each, judgement.times));
    const head = ["cut", "for", "received nothing", "slowest message", "lost", "takeovers", "in the logs"];
    return { text: `${table([head, ...rows])}times without service of a shard:\n${outages}${text}`, failures };
  }

  async #startEngine(): Promise<string> {
    if (this.#stage.options.engine === "postgres") {
      this.#postgres = await this.#network.add();
      return (await PostgresEngine.startAt(this.#postgres, NO_SYNC)).url("postgres");
    }
    const machines = [await this.#network.add(), await this.#network.add(), await this.#network.add()];
    const engines = await NatsEngine.startCluster(machines);
    for (const [i, engine] of engines.entries()) this.#nats.push({ machine: machines[i]!, engine });
    await Bun.sleep(3_000); // JetStream elects its leader.
    return `nats://${engines.map(({ address }) => address).join(",")}`;
  }

  #ownerOf(shard: number): Machine {
    return this.#machines.get(this.#stage.members.owners[shard]!)!;
  }

  /** The server of NATS that the owner of shard 0 is connected to. */
  get #natsOfOwner(): Machine {
    const owner = this.#ownerOf(0);
    return this.#nats.find(({ machine, engine }) => owner.isConnectedTo(machine, engine.port))!.machine;
  }

  /** The server of NATS that leads the log of shard 0, and the next one. */
  async #leader(): Promise<[Machine, Machine]> {
    const streams = await this.#nats[0]!.engine.streams();
    const { cluster } = streams.find(({ config }) => config.name.includes("-0-log-"))!;
    const index = Number(cluster!.leader!.slice(1)) - 1; // Their names are n1, n2 and n3.
    return [this.#nats[index]!.machine, this.#nats[(index + 1) % this.#nats.length]!.machine];
  }

  /** With NATS those between the owners are left out: they are the same as with PostgreSQL. */
  get #ends(): Ends[] {
    const owner = "the owner of shard 0";
    const isPostgres = this.#postgres !== null;
    const engine = isPostgres ? "PostgreSQL" : "its server of NATS";
    const toEngine = (): [Machine, Machine] => [this.#ownerOf(0), this.#postgres ?? this.#natsOfOwner];
    const engineCuts: Ends = { one: owner, other: engine, machines: toEngine, ways: ["there", "back", "both"] };
    const alike: readonly Way[] = ["there", "both"];
    const owners = (): [Machine, Machine] => [this.#ownerOf(0), this.#ownerOf(1)];
    if (isPostgres) return [{ one: owner, other: "that of shard 1", machines: owners, ways: alike }, engineCuts];
    const [one, other] = ["the leader of shard 0 in NATS", "another server of NATS"];
    return [engineCuts, { one, other, machines: () => this.#leader(), ways: alike }];
  }

  async #cut(ends: Ends, way: Way, ms: number): Promise<PastCut> {
    const { members } = this.#stage;
    const { takeovers } = members;
    const sizes = new Map(members.all.map(({ log }) => [log, statSync(log, { throwIfNoEntry: false })?.size ?? 0]));
    const what = nameOf(ends, way);
    const [one, other] = await ends.machines();
    this.#stage.say(`${what}, ${seconds(ms)}`);
    const span = members.outages.fault(what);
    const beganMs = Date.now();
    if (way !== "back") one.cut(other);
    if (way !== "there") other.cut(one);
    await Bun.sleep(ms);
    if (way !== "back") one.heal(other);
    if (way !== "there") other.heal(one);
    members.outages.ended(span);
    await Bun.sleep(SETTLE_MS + ms * SETTLE_SHARE);
    await members.served();
    const events = new Map<string, number>();
    for (const [log, size] of sizes)
      for (const line of readFileSync(log).subarray(size).toString().split("\n")) {
        const event = eventOf(line);
        if (event !== null) events.set(event, (events.get(event) ?? 0) + 1);
      }
    return { what, ms, beganMs, settledMs: Date.now(), takeovers: members.takeovers - takeovers, events };
  }

  /** Which users received nothing for how long, by the shards of senders and recipients. */
  #row({ what, ms, beganMs, settledMs, takeovers, events }: PastCut, { messages, losses }: Times): string[] {
    const { shards } = this.#stage.options;
    const shard = (user: string): number => shardOf(Buffer.from(user), 0, user.length, shards);
    const pairs = Map.groupBy(messages, ({ from, to }) => `${shard(from)}>${shard(to)}`);
    const gaps = [...pairs]
      .map(([pair, all]): [string, number] => [
        pair,
        longestGapMs(
          all.map(({ shownMs }) => shownMs),
          beganMs,
          settledMs,
        ),
      ])
      .filter(([, gapMs]) => gapMs >= GAP_MS)
      .sort(([a], [b]) => a.localeCompare(b));
    const sent = messages.filter(
      ({ sentMs, shownMs }) => sentMs >= beganMs && sentMs < settledMs && shownMs < Infinity,
    );
    const slowest = Math.max(0, ...sent.map(({ sentMs, shownMs }) => shownMs - sentMs));
    const lost = losses.filter(({ lostMs }) => lostMs >= beganMs && lostMs < settledMs);
    const longest = Math.max(0, ...lost.map(({ lostMs, backMs }) => backMs - lostMs));
    return [
      what,
      seconds(ms),
      gaps.map(([pair, gapMs]) => `${pair} ${seconds(gapMs)}`).join(", ") || "nobody",
      seconds(slowest),
      lost.length === 0 ? "nobody" : `${lost.length} connections, up to ${seconds(longest)}`,
      String(takeovers),
      [...events].map(([event, count]) => `${event} ${count}`).join(", "),
    ];
  }
}

/** The event of a line of a log that an operator looks for; null for any other line. */
function eventOf(line: string): string | null {
  const [, event = ""] = /"event":"(\w+)"/.exec(line) ?? [];
  const [, reason] = /"reason":"(\w+)"/.exec(line) ?? [];
  if (event === "link_lost") return `${event} (${reason})`;
  const isNotable = /^(engine_|claimed|deposed|released|cluster_error|neighbour_error|no_owner|relay_failed|snapshot_)/;
  return isNotable.test(event) ? event : null;
}

/** Options for servers that trust each other; one certificate is valid for all of them. */
async function certified(addresses: string[]): Promise<string[]> {
  const authority = await makeCertificate(["cluster"]);
  const { chain, key, authorities } = writeClusterCertificate(
    await makeCertificate(addresses, { issuer: authority }),
    authority,
  );
  return ["--cluster-ca", authorities, "--cluster-cert", chain, "--cluster-key", key];
}
