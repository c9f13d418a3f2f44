/** What all drills have in common: a cluster on an engine, users that send messages, and the judgement at the end. */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Program } from "../../../bench/program.ts";
import { initLog } from "../../../src/cluster/open-log.ts";
import { removeFolders } from "../../support/folders.ts";
import { freePort } from "../../support/free-port.ts";
import { type Host, LOOPBACK } from "../../support/hosts.ts";
import { NatsEngine } from "../../support/nats-engine.ts";
import { PostgresEngine } from "../../support/postgres-engine.ts";
import { Random } from "../../support/random.ts";
import type { EngineName } from "../chaos/cluster.ts";
import { Member } from "../chaos/member.ts";
import { Members } from "../chaos/members.ts";
import { type RecordTally, followRecords } from "../chaos/records.ts";
import { serveOptions } from "../chaos/server.ts";
import type { DeliveryTally } from "../chaos/verdict.ts";
import { Load } from "./load.ts";
import { type Times, timesIn } from "./times.ts";

export interface DrillOptions {
  seed: number;
  /** What they are for depends on the drill; only cuts have several. */
  seconds: readonly number[];
  clients: number;
  /** Users with mail, of the drill with very many accounts. */
  mailboxes: number;
  /** Messages per second of all clients together. */
  rate: number;
  engine: EngineName;
  shards: number;
  /** At most so many replacements, cuts or promotions. */
  steps: number;
  /** Servers have a port for clients that leave the gateway (`--direct-listen`). */
  isDirect: boolean;
  /** A folder with the sources of an older version; null for a copy of these with another number. */
  from: string | null;
  /** Bound of the 99th percentile of the time from a message to its reply. */
  replyP99MsMax: number;
}

export interface Report {
  text: string;
  /** Why the drill failed; empty when it did not. */
  failures: string[];
}

export interface Judgement {
  tally: DeliveryTally;
  records: RecordTally;
  times: Times;
  /** When the users began to stop, by the wall clock. */
  stoppedMs: number;
}

/** Its process is killed at most, not its machine. */
export const NO_SYNC = "fsync=off";
/** The default of `--heartbeat-interval`. */
const IDLE_TIMEOUT_S = 35;
/** How often each server is asked what it is: as a balancer does, and so that it costs the servers little. */
const POLL_MS = 250;
/** Interval of the progress lines. */
const PROGRESS_MS = 5_000;

export class Stage {
  readonly folder = mkdtempSync(join(tmpdir(), "heartline-drill-"));
  readonly options: DrillOptions;
  readonly random: Random;
  readonly faults: string[] = [];
  readonly members: Members;
  readonly #fault = (what: string): void => void this.faults.push(what);
  /** Options of all servers. */
  #args: string[] = [];
  #load: Load | null = null;
  #progress: Timer | null = null;
  #count = 0;
  /** That of the shared log. */
  url = "";
  /** Errors in the log of a server that are no faults; see `MemberSpec`. */
  expected: RegExp | undefined;

  constructor(options: DrillOptions) {
    this.options = options;
    this.random = new Random(options.seed);
    this.members = new Members(options.shards, POLL_MS);
  }

  /** Makes the cluster. `more` are options of all servers, besides those that have to be. */
  async init(url: string, more: readonly string[] = []): Promise<void> {
    const { clients, shards } = this.options;
    this.url = url;
    await initLog(url, shards);
    const spec = {
      folder: this.folder,
      users: clients,
      durability: "process",
      limitLoopback: false,
      idleTimeoutS: IDLE_TIMEOUT_S,
    };
    this.#args = [...serveOptions(spec).slice(1), "--cluster", url, ...more];
  }

  /** Starts a server; `program` is that of another version. */
  add(host: Host = LOOPBACK, program = "src/main.ts"): Member {
    const direct = this.options.isDirect ? ["--direct-listen", `${host.address}:${freePort()}`] : [];
    const data = join(this.folder, `server-${this.#count++}`);
    const spec = { args: [program, ...this.#args, ...direct], data, host, expected: this.expected };
    const member = new Member(spec, { fault: this.#fault }, this.random);
    this.members.add(member);
    return member;
  }

  /** Starts the users, when each shard has an owner. */
  async begin(): Promise<void> {
    await this.members.served();
    const { clients: users, rate, shards } = this.options;
    const folder = join(this.folder, "clients");
    mkdirSync(folder);
    const target = () => this.random.pick(this.members.ready);
    this.#load = new Load({ folder, users, rate, shards }, target, this.random, this.#fault);
    await this.#load.start();
    this.say(`${users} clients are logged in`);
    this.#progress = setInterval(() => this.#showProgress(), PROGRESS_MS);
  }

  say(what: string): void {
    process.stderr.write(`${Math.round(performance.now() / 1000)} s: ${what}\n`);
  }

  #showProgress(): void {
    this.#load!.verdict.read();
    this.say(`${this.#load!.verdict.accepted} messages`);
  }

  /** Ends the users, and compares what each one sent with what the others were shown. */
  async judge(): Promise<Judgement> {
    clearInterval(this.#progress!);
    const stoppedMs = Date.now();
    const tally = await this.#load!.stop();
    const checkRecords = await followRecords(this.url);
    const records = await checkRecords(this.#load!.verdict.acceptedMessages);
    tally.faults.push(...this.faults);
    return { tally, records, stoppedMs, times: timesIn(join(this.folder, "clients"), this.options.clients) };
  }

  /** Ends all servers. `isClean`: nobody needs the logs. */
  async stop(isClean: boolean): Promise<void> {
    clearInterval(this.#progress!);
    this.#load?.close();
    this.members.stop();
    await Promise.all([...Program.running].map((program) => program.stop()));
    await Promise.all([PostgresEngine.closeAll(), NatsEngine.closeAll()]);
    removeFolders();
    if (isClean) rmSync(this.folder, { recursive: true, force: true });
    else process.stdout.write(`the logs are in ${this.folder}\n`);
  }
}

/** What a drill must not do, whatever it is: the lines of the report and the failures. */
export function judged({ tally, records }: Judgement): Report {
  const { lost, twice, disordered, faults, accepted, received, refused, busy, unknown } = tally;
  const errors = { lost, twice, disordered, "without a record": records.missing, faults };
  const counts = Object.entries(errors).map(([what, all]) => `${what} ${all.length}`);
  const examples = Object.entries(errors).flatMap(([what, all]) => all.slice(0, 10).map((each) => `${what}: ${each}`));
  const messages = `${accepted} messages, ${received} received, ${refused} refused (${busy} busy), ${unknown} unknown`;
  const checked = `${records.checked} records checked, ${records.crossed} of them between shards`;
  const failures = Object.entries(errors).filter(([, all]) => all.length > 0);
  return {
    text: [`${messages}; ${checked}`, counts.join(", "), ...examples, ""].join("\n"),
    failures: failures.map(([what, all]) => `${what} ${all.length}`),
  };
}

/** A new engine on this machine: its URL, and the servers of NATS. */
export async function startEngine(engine: EngineName): Promise<{ url: string; nats: NatsEngine[] }> {
  if (engine === "postgres") return { url: (await PostgresEngine.start(NO_SYNC)).url("postgres"), nats: [] };
  const nats = await NatsEngine.startCluster();
  await Bun.sleep(2_000); // JetStream elects its leader.
  return { url: `nats://${nats.map(({ address }) => address).join(",")}`, nats };
}
