import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Random } from "../test/support/random.ts";
import { type ClientsOrder, INSTANTS, PASSWORD, isCallback, nameOf } from "./chaos-clients.ts";
import { type Tally, Verdict, describe, isWell } from "./chaos-verdict.ts";
import { Program, within } from "./program.ts";
import { Proxy, Storm } from "./proxy.ts";

const USAGE = `Usage: bun run chaos [options]

Runs a server and many clients as processes of their own, with a proxy between them that cuts, stalls and tears
their connections, kills the clients and starts them again, and then compares what everybody said with what
everybody was shown. Everything stays on this machine, in temporary folders that are removed.

  --seed <number>      decides what happens; the times are the machine's own (a fresh one, which is printed)
  --seconds <number>   how long people write and things break, 1 to 86400 (10)
  --clients <number>   how many users there are, 2 to 2000 (200)
  --help               this page

Exit code: 0 when every message came once and in order, 1 when not, 2 for a command line that cannot be meant.
`;

/** A session ends after so much silence; outages outlast it. */
const SILENCE_S = 5;
const MESSAGES_PER_CLIENT = 4;
const STEP_MS = 50;
/** At each step one connection in so many is cut or stalled. */
const STRIKE_ODDS = 400;
/** Bounds of the waits: for a program to be ready, for everything to arrive, for more to come, for an exit. */
const READY_MS = 30_000;
const SETTLE_MS = 30_000;
const QUIET_MS = 1_500;
const EXIT_MS = 10_000;

class UsageError extends Error {}

interface Options {
  seed: number;
  seconds: number;
  clients: number;
}

function parseOptions(args: string[]): Options | null {
  const text = { type: "string" } as const;
  const options = { seed: text, seconds: text, clients: text, help: { type: "boolean", short: "h" } } as const;
  let values: { seed?: string; seconds?: string; clients?: string; help?: boolean };
  try {
    ({ values } = parseArgs({ args, options }));
  } catch (error) {
    throw new UsageError((error as Error).message.split(/\.\s/)[0]?.replace(/^\w/, (letter) => letter.toLowerCase()));
  }
  if (values.help === true) return null;
  const number = (name: "seed" | "seconds" | "clients", fallback: number, least: number, most: number): number => {
    const given = values[name] ?? String(fallback);
    if (/^\d+$/.test(given) && Number(given) >= least && Number(given) <= most) return Number(given);
    throw new UsageError(`--${name} takes a whole number from ${least} to ${most}, not "${given}"`);
  };
  const seed = number("seed", Math.floor(Math.random() * 2 ** 31), 0, 2 ** 32 - 1);
  return { seed, seconds: number("seconds", 10, 1, 86_400), clients: number("clients", 200, 2, 2_000) };
}

/** One process of clients with a proxy of its own, both of which come and go. */
class Group {
  readonly proxy: Proxy;
  readonly #order: ClientsOrder;
  readonly #random: Random;
  readonly #fault: (what: string) => void;
  #program: Program | null = null;
  /** The last word of its process: all its users are in, or some are out; quiet is in, and nothing to be done. */
  state = "";
  #doomed = false;
  #stopped = false;
  #killAtMs = 0;
  #outageAtMs = 0;
  kills = 0;
  outages = 0;

  constructor(proxy: Proxy, order: ClientsOrder, random: Random, fault: (what: string) => void) {
    this.proxy = proxy;
    this.#order = order;
    this.#random = random;
    this.#fault = fault;
    this.#outageAtMs = performance.now() + random.between(3_000, 6_000);
  }

  start(rate = this.#order.rate): void {
    this.#doomed = false;
    this.state = "";
    this.#killAtMs = performance.now() + this.#random.between(3_000, 8_000);
    const order: ClientsOrder = { ...this.#order, rate, seed: this.#random.below(2 ** 31) };
    const program = new Program(
      ["bench/chaos-clients.ts", JSON.stringify(order)],
      (line) => {
        if (!this.#doomed) this.state = line;
      },
      (line) => this.#fault(`a client process wrote: ${line}`),
    );
    this.#program = program;
    void program.ended.then((how) => {
      if (program === this.#program) this.state = "";
      const isMeant = how === "SIGKILL" ? this.#doomed : how === "code 0";
      if (!isMeant) this.#fault(`a client process ended with ${how}`);
    });
  }

  say(line: string): void {
    this.#program?.say(line);
  }

  get ended(): Promise<string> {
    return this.#program!.ended;
  }

  /** Time passes in the storm. */
  step(): void {
    const nowMs = performance.now();
    if (nowMs > this.#killAtMs) {
      this.#killAtMs = Number.POSITIVE_INFINITY;
      void this.#kill();
    }
    if (nowMs < this.#outageAtMs) return;
    const ms = this.#random.between(500, SILENCE_S * 1_500);
    this.#outageAtMs = nowMs + ms + this.#random.between(5_000, 15_000);
    this.outages++;
    this.proxy.refuses = true;
    this.proxy.cut();
    setTimeout(() => (this.proxy.refuses = false), ms);
  }

  /** Kills it, half of the time at an instant of its own, and starts it again after a while. */
  async #kill(): Promise<void> {
    const program = this.#program!;
    this.#doomed = true;
    this.state = ""; // What is said to it from here on may be lost.
    this.kills++;
    const downMs = this.#random.oneIn(4) ? SILENCE_S * 1_000 + 1_500 : this.#random.below(1_000);
    if (this.#random.oneIn(2)) {
      program.say(`die ${this.#random.pick(INSTANTS)} ${this.#random.between(1, 30)}`);
      await within(program.ended, 1_000);
    }
    program.kill("SIGKILL");
    await program.ended;
    await Bun.sleep(downMs);
    if (!this.#stopped) this.start();
  }

  get isThere(): boolean {
    return this.state !== "";
  }

  /** Nothing is started any more. */
  stop(): void {
    this.#stopped = true;
    this.proxy.stop();
  }

  calm(): void {
    this.#killAtMs = this.#outageAtMs = Number.POSITIVE_INFINITY;
    this.proxy.refuses = false;
  }
}

/** A server, its clients, what is between them, and what becomes of it all. */
class Chaos {
  readonly #options: Options;
  readonly #random: Random;
  readonly #storm: Storm;
  readonly #folder = mkdtempSync(join(tmpdir(), "heartline-chaos-"));
  readonly #verdict: Verdict;
  readonly #groups: Group[] = [];
  /** Where callback clients can be called: a proxy each, of which the server is told instead of the client's port. */
  readonly #doors = new Map<string, Proxy>();
  readonly #faults: string[] = [];
  #server: Program | null = null;
  #storms = false;
  #cuts = 0;
  #stalls = 0;
  #shownAtMs = 0;
  readonly #startMs = performance.now();

  constructor(options: Options) {
    this.#options = options;
    this.#random = new Random(options.seed);
    this.#storm = new Storm(this.#random);
    this.#verdict = new Verdict(this.#folder, options.clients);
  }

  async run(): Promise<boolean> {
    const port = await this.#startServer(0);
    this.#startClients(port);
    const all =
      (...states: string[]) =>
      (): boolean =>
        this.#groups.every(({ state }) => states.includes(state));
    if (!(await this.#until(all("in"), READY_MS))) this.#faults.push("not everybody came in");
    this.#storms = true;
    const endMs = performance.now() + this.#options.seconds * 1_000;
    await this.#until(() => performance.now() > endMs, this.#options.seconds * 1_000 + 1_000);
    this.#calmDown();
    await this.#until(() => this.#groups.every(({ isThere }) => isThere), READY_MS);
    for (const group of this.#groups) group.say("stop");
    const isQuiet = await this.#until(all("quiet"), SETTLE_MS);
    if (!isQuiet) this.#faults.push(`some did not come back or were never answered: ${this.#states}`);
    const hasArrived = (): boolean => this.#verdict.tally().lost.length === 0;
    await this.#until(() => !this.#verdict.read() && hasArrived(), isQuiet ? SETTLE_MS : QUIET_MS, 500);
    // Another run with the same states must get nothing that was shown, and miss nothing.
    await this.#leave();
    for (const group of this.#groups) group.start(0);
    if (!(await this.#until(all("quiet"), READY_MS))) this.#faults.push(`some did not come back: ${this.#states}`);
    await Bun.sleep(QUIET_MS);
    await this.#until(() => !this.#verdict.read(), READY_MS, QUIET_MS);
    await this.#leave();
    this.#verdict.read();
    return this.#report(this.#verdict.tally());
  }

  /** A server on that port; with the same data, were it to be started again. */
  async #startServer(port: number): Promise<number> {
    const credentials = join(this.#folder, "credentials.txt");
    const users = Array.from({ length: this.#options.clients }, (_, index) => `${nameOf(index)} ${PASSWORD}\n`);
    writeFileSync(credentials, users.join(""));
    const { promise, resolve } = Promise.withResolvers<number>();
    const server = new Program(
      [
        ...["src/server/main.ts", "--host", "127.0.0.1", "--port", String(port), "--credentials", credentials],
        ...["--data", join(this.#folder, "data"), "--heartbeat-interval", String(SILENCE_S)],
      ],
      (line) => resolve(Number(/listening on \S+:(\d+)/.exec(line)?.[1])),
      (line) => {
        if (!/"level":[1-4]0/.test(line)) this.#faults.push(`the server wrote: ${line}`);
      },
    );
    this.#server = server;
    void server.ended.then((how) => {
      if (this.#server === server) this.#faults.push(`the server ended with ${how}`);
    });
    const listening = await within(Promise.race([promise, server.ended.then(() => null)]), READY_MS);
    if (listening === null) throw new Error(`the server did not start: ${this.#faults.join("; ")}`);
    return listening;
  }

  #startClients(port: number): void {
    const { clients } = this.#options;
    mkdirSync(join(this.#folder, "state"));
    const size = Math.min(40, Math.ceil(clients / 3));
    for (let first = 0; first < clients; first += size) {
      const proxy = new Proxy(port, this.#storm, (bytes) => this.#announceDoor(bytes));
      const count = Math.min(size, clients - first);
      const rate = count * MESSAGES_PER_CLIENT;
      const order = { folder: this.#folder, port: proxy.port, first, count, users: clients, rate, seed: 0 };
      const group = new Group(proxy, order, this.#random, (what) => this.#faults.push(what));
      this.#groups.push(group);
      group.start();
    }
  }

  /** A login that asks to be called is told to the server with the port of a proxy in between. */
  #announceDoor(bytes: Buffer): Buffer {
    const line = bytes.toString("latin1");
    const [, user, port] = /^login (\S+) .* callback=(\d+)/.exec(line) ?? [];
    if (user === undefined || port === undefined) return bytes;
    const door = this.#doors.get(user) ?? new Proxy(Number(port), this.#storm);
    door.moveTo(Number(port));
    this.#doors.set(user, door);
    return Buffer.from(line.replace(`callback=${port}`, `callback=${door.port}`), "latin1");
  }

  /** Waits, with everything going on meanwhile; false when it takes too long. */
  async #until(is: () => boolean, ms: number, stepMs = STEP_MS): Promise<boolean> {
    const endMs = performance.now() + ms;
    while (!is()) {
      if (performance.now() > endMs) return false;
      await Bun.sleep(stepMs);
      this.#step();
    }
    return true;
  }

  #step(): void {
    const nowMs = performance.now();
    if (this.#storms) {
      for (const group of this.#groups) group.step();
      this.#strike();
    }
    if (nowMs < this.#shownAtMs + 1_000) return;
    this.#shownAtMs = nowMs;
    this.#verdict.read();
    const there = this.#groups.filter(({ isThere }) => isThere).length;
    process.stderr.write(
      `${Math.round((nowMs - this.#startMs) / 1_000)} s: ${this.#verdict.accepted} messages, ${this.#allCuts} cuts, ` +
        `${this.#stalls} stalls, ${this.#kills} kills, ${there} of ${this.#groups.length} processes there\n`,
    );
  }

  /** One connection, now and then, is cut or stalled; sometimes for longer than a session lives. */
  #strike(): void {
    const connections = this.#proxies.flatMap((proxy) => proxy.connections);
    const random = this.#random;
    for (let left = connections.length; random.below(STRIKE_ODDS) < left; left -= STRIKE_ODDS) {
      const connection = random.pick(connections);
      if (random.oneIn(3)) {
        this.#cuts++;
        connection.cut(random.oneIn(2));
        continue;
      }
      this.#stalls++;
      const ms = random.oneIn(8) ? random.between(3_000, SILENCE_S * 2_000) : random.between(20, 1_500);
      const way = random.below(3);
      if (way !== 1) connection.up.stall(ms);
      if (way !== 2) connection.down.stall(ms);
    }
  }

  get #proxies(): Proxy[] {
    return [...this.#groups.map(({ proxy }) => proxy), ...this.#doors.values()];
  }

  get #states(): string {
    return this.#groups.map(({ state }) => state || "not there").join("; ");
  }

  get #kills(): number {
    return this.#groups.reduce((sum, { kills }) => sum + kills, 0);
  }

  get #allCuts(): number {
    return this.#proxies.reduce((sum, { cuts }) => sum + cuts, this.#cuts);
  }

  #calmDown(): void {
    this.#storms = false;
    this.#storm.calm = true;
    for (const group of this.#groups) group.calm();
    for (const { connections } of this.#proxies) for (const connection of connections) connection.calm();
  }

  /** Everybody logs out, and the processes end. */
  async #leave(): Promise<void> {
    for (const group of this.#groups) group.say("leave");
    const all = Promise.all(this.#groups.map(({ ended }) => ended));
    if ((await within(all, EXIT_MS * 2)) === null) throw new Error("a client process does not end");
  }

  /** Says what came of it; whether all is well. */
  #report(tally: Tally): boolean {
    const { seed, seconds, clients } = this.#options;
    tally.faults.unshift(...this.#faults);
    const callbacks = Array.from({ length: clients }, (_, index) => isCallback(index)).filter(Boolean).length;
    const deeds = {
      cuts: this.#allCuts,
      outages: this.#groups.reduce((sum, { outages }) => sum + outages, 0),
      stalls: this.#stalls,
      kills: this.#kills,
      calls: this.#doors.values().reduce((sum, { accepted }) => sum + accepted, 0),
      users: clients,
    };
    const who = `${clients} clients (${callbacks} callback) in ${this.#groups.length} processes`;
    process.stdout.write(`seed ${seed}, ${seconds} s, ${who}\n${describe({ ...tally, ...deeds })}`);
    return isWell(tally);
  }

  /** Ends every process that it started, and leaves nothing behind. */
  async stop(): Promise<void> {
    this.#storms = false;
    this.#server = null;
    for (const stopping of [...this.#groups, ...this.#doors.values()]) stopping.stop();
    await Promise.all([...Program.running].map((program) => program.stop()));
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

async function main(): Promise<number> {
  const options = parseOptions(process.argv.slice(2));
  if (options === null) {
    process.stdout.write(USAGE);
    return 0;
  }
  process.stderr.write(`seed ${options.seed}\n`);
  const chaos = new Chaos(options);
  const { promise: interrupted, resolve } = Promise.withResolvers<number>();
  process.once("SIGINT", () => resolve(130));
  process.once("SIGTERM", () => resolve(143));
  try {
    return await Promise.race([interrupted, chaos.run().then((allIsWell) => (allIsWell ? 0 : 1))]);
  } finally {
    await chaos.stop();
  }
}

try {
  process.exit(await main());
} catch (error) {
  const isUsage = error instanceof UsageError;
  const { message } = error as Error;
  process.stderr.write(`chaos: ${message}${isUsage ? " (--help lists the options)" : ""}\n`);
  process.exit(isUsage ? 2 : 1);
}
