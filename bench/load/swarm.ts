/**
 * The load generator: many clients in one process. It logs them in, sends in a closed loop (a window) or an open loop
 * (a rate), and measures. As a process it reads a WorkloadSpec on stdin and writes JSON lines on stdout.
 */
import { Client, type SwarmState } from "./client.ts";
import { PROTOCOLS, type ProtocolAdapter } from "./protocol-adapter.ts";
import { Histogram } from "../report/histogram.ts";
import { type Counters, type Memory, MeasuredServer, latencyOf, pointOf, ratesOf } from "./figures.ts";
import type { WorkloadSpec, Outcome, Slice } from "./workload-spec.ts";
import * as payload from "./payload.ts";
import { machineTicks, stolen } from "../process-figures.ts";
import { linesOf } from "../program.ts";
import { Tally } from "./tally.ts";

const ACK_INTERVAL_MS = 1_000;
const DRAIN_MS = 20_000;
const LOGIN_MS = 30_000;
/** Messages of an open loop that are sent at once; then the sockets are read. */
const DUE_SENDS_MAX = 256;
/** Broadcasts in flight per client: a power of 2. */
const BROADCASTS_IN_FLIGHT_MAX = 1 << 12;

/** The clients of one process, and what is counted over all of them. */
export class Swarm implements SwarmState {
  readonly spec: WorkloadSpec;
  readonly adapter: ProtocolAdapter;
  readonly clients: Client[];
  /** The clients that send: all but the crowd. */
  readonly senders: Client[];
  dirty: Client[] = [];
  /** In tenths of µs; see Slice. */
  readonly latency = new Histogram();
  readonly last = new Histogram();
  readonly lateness = new Histogram();
  readonly tally: Tally;
  readonly runNumber = payload.newRun();
  readonly payloadBytes: number;
  /** Bytes between the payload and the LF. */
  readonly payloadEnd: number;
  accepted = 0;
  delivered = 0;
  refused = 0;
  /** Messages in flight per client; 0 in an open loop and when sending has stopped. */
  window = 0;
  isWorking = false;
  readonly #server: MeasuredServer;
  readonly #report: (progress: string) => void;
  readonly #faults = new Set<string>();
  /** Receivers that a broadcast has not reached, by `slotOf`; and the number of receivers of each broadcast. */
  readonly #receiversLeft: Int32Array;
  readonly #receivers: number;
  #messagesSent = 0;
  #nextBroadcaster = 0;
  /** Swapped with `dirty` each turn. */
  #spareDirty: Client[] = [];
  /** Loading: clients send. Draining: they wait for what is in flight. Closed: a closed connection is not a fault. */
  #state: "loading" | "draining" | "closed" = "loading";
  #loginsBegun = 0;
  /** Open loop: when the next message is due, in tenths of µs; messages per second; the index of its sender. */
  #dueTenths = 0;
  #rate = 0;
  #nextSender = 0;
  #idleMs = 0;
  /** The server's memory before the clients logged in whose memory is measured, and their number. */
  #memoryBefore: Memory | null = null;
  #clientsSince = 0;
  #loginLoops: Promise<void>[] = [];
  #ackTimer: Timer | undefined;
  #dropped = 0;

  constructor(spec: WorkloadSpec, report: (progress: string) => void) {
    this.spec = spec;
    this.#report = report;
    this.#server = new MeasuredServer(spec.pid, () => this.fault("the server has ended"));
    const { users, scenario, payloadBytes } = spec;
    this.adapter = PROTOCOLS[spec.protocol];
    this.payloadBytes = payloadBytes;
    this.payloadEnd = this.adapter.message("x", payloadBytes).tail.length - 1;
    this.clients = users.map((_, index) => new Client(this, index));
    this.senders = this.clients.slice(0, users.length - spec.crowd);
    this.tally = new Tally(users.length * (1 + scenario.broadcasters));
    this.#receiversLeft = new Int32Array(scenario.broadcasters * BROADCASTS_IN_FLIGHT_MAX);
    this.#receivers = users.length - (this.adapter.broadcastersReceive ? 1 : scenario.broadcasters);
  }

  fault(what: string): void {
    if (this.#faults.size < 5) this.#faults.add(what);
  }

  disconnected(client: Client): void {
    client.socket = null;
    if (this.#state === "closed" || client.isLoggedOut) return;
    this.#dropped++;
    this.fault("the server closed a connection");
  }

  /** Counts a message that was sent, and sends a broadcast after every `broadcastEach` of them. */
  messageSent(stamp: number): void {
    const { broadcastEach, broadcasters } = this.spec.scenario;
    if (broadcastEach > 0 && ++this.#messagesSent % broadcastEach === 0)
      this.clients[this.#nextBroadcaster++ % broadcasters]!.broadcast(stamp);
  }

  broadcastSent(broadcaster: number, sequence: number): void {
    this.#receiversLeft[slotOf(broadcaster, sequence)] = this.#receivers;
  }

  /** A broadcast has reached one more receiver. The last one makes room for the next broadcast. */
  broadcastReceived(broadcaster: number, sequence: number, age: number, now: number): void {
    if (--this.#receiversLeft[slotOf(broadcaster, sequence)]! !== 0) return;
    this.accepted++;
    this.last.record(age);
    if (this.window > 0 && this.spec.scenario.broadcastEach === 0) this.clients[broadcaster]!.broadcast(now);
  }

  /** The whole run: log in, warm up, measure, wait for everything in flight. */
  async run(): Promise<Outcome> {
    await this.begin();
    return this.end(await this.measure(this.spec.measureMs));
  }

  /** Logs in, starts to send, and waits for the warm-up. */
  async begin(): Promise<void> {
    const { scenario, warmupMs, rate, window, beatMs } = this.spec;
    this.#runTurns();
    // Memory per idle client is a slope: the server's own memory and the first quarter of the clients do not count.
    const crowd = scenario.instead === "login" ? this.spec.crowd : this.clients.length;
    const first = scenario.instead === "idle" ? crowd >> 2 : 0;
    await this.#logIn(first);
    this.#memoryBefore = this.#server.memory;
    this.#clientsSince = crowd - first;
    await this.#logIn(crowd);
    if (scenario.instead === "login")
      this.#loginLoops = this.clients.slice(crowd).map(({ index }) => this.#loginLoop(index));
    this.#ackTimer = setInterval(() => this.clients.forEach((client) => client.sendAck()), ACK_INTERVAL_MS);
    const sendsMessages = scenario.instead === null;
    if (scenario.instead === "alive") this.#rate = this.clients.length / (beatMs / 1000);
    else if (sendsMessages) this.#rate = rate;
    this.#dueTenths = performance.now() * 10_000;
    if (sendsMessages && rate === 0) this.#fillWindow(window);
    this.#report("warming up");
    await Bun.sleep(warmupMs);
  }

  /** Measures for `measureMs`. */
  async measure(measureMs: number): Promise<Slice> {
    for (const histogram of [this.latency, this.last, this.lateness]) histogram.clear();
    this.#idleMs = 0;
    const ticks = machineTicks();
    const from = this.#counters();
    const series = await this.#recordSeries(measureMs);
    const to = this.#counters();
    const [latency, last, lateness] = [latencyOf(this.latency), latencyOf(this.last), latencyOf(this.lateness)];
    const busy = 1 - this.#idleMs / (to.ms - from.ms);
    const stolenShare = stolen(ticks);
    // By now each session has all the memory that it needs to send and receive.
    const memory = { before: this.#memoryBefore, after: this.#server.memory, clients: this.#clientsSince };
    return {
      clients: this.clients.length,
      ...ratesOf(from, to, memory),
      latency,
      last,
      lateness,
      busy,
      stolen: stolenShare,
      series,
      ...this.#errors(),
    };
  }

  /** Stops sending, waits for everything in flight, and returns `slice` with the totals and the errors. */
  async end(slice: Slice): Promise<Outcome> {
    this.window = this.#rate = 0;
    this.#state = "draining";
    await Promise.all(this.#loginLoops);
    await this.#drain();
    clearInterval(this.#ackTimer);
    const sent = this.clients.reduce((sum, each) => sum + each.messagesSent + each.broadcastsSent, 0);
    return { ...slice, ...this.#errors(), sent, refused: this.refused, faults: [...this.#faults] };
  }

  #errors(): Pick<Slice, "lost" | "twice" | "disordered" | "dropped"> {
    const { lost, twice, disordered } = this.tally;
    return { lost, twice, disordered, dropped: this.#dropped };
  }

  /** Closed loop: sends the first messages. Each delivery sends the next one. */
  #fillWindow(window: number): void {
    const { messages, broadcasters, broadcastEach } = this.spec.scenario;
    this.window = window;
    const now = payload.stampAt(performance.now());
    for (let i = 0; i < window; i++) {
      if (messages) for (const client of this.senders) client.message(now);
      if (broadcastEach === 0) for (let b = 0; b < broadcasters; b++) this.clients[b]!.broadcast(now);
    }
  }

  /** Scenario login: one user logs in and out, again and again. */
  async #loginLoop(index: number): Promise<void> {
    while (this.#state === "loading" && this.#faults.size === 0) {
      const client = new Client(this, index);
      const beganMs = performance.now();
      await client.login();
      this.latency.record((performance.now() - beganMs) * 10_000);
      this.accepted++;
      await client.logout();
    }
  }

  /** Runs turns without blocking in between. Each turn writes the output of each dirty client once. */
  #runTurns(): void {
    let sinceMs = performance.now();
    const turn = (): void => {
      // Two arrays that are swapped: a new array per turn would be a million per second to collect.
      const due = this.dirty;
      this.dirty = this.#spareDirty;
      this.#spareDirty = due;
      for (let i = 0; i < due.length; i++) {
        due[i]!.flush();
        this.isWorking = true;
        if (this.#rate > 0) this.sendDue(performance.now());
      }
      due.length = 0;
      const nowMs = performance.now();
      this.sendDue(nowMs);
      if (!this.isWorking) this.#idleMs += nowMs - sinceMs;
      this.isWorking = false;
      sinceMs = nowMs;
      if (this.#state !== "closed") setImmediate(turn);
    };
    setImmediate(turn);
  }

  /** Open loop: sends all messages that are due. A late one still has the stamp of its due time. */
  sendDue(nowMs: number): void {
    const nowTenths = nowMs * 10_000;
    if (this.#rate === 0 || this.#dueTenths > nowTenths) return;
    const before = this.dirty.length;
    const gapTenths = 1e7 / this.#rate;
    const { messages, broadcasters, instead } = this.spec.scenario;
    // Bounded, so that sockets are read also when many messages are late.
    for (let i = 0; i < DUE_SENDS_MAX && this.#dueTenths <= nowTenths; i++, this.#dueTenths += gapTenths) {
      const stamp = payload.stampAt(this.#dueTenths / 10_000);
      this.lateness.record(nowTenths - this.#dueTenths);
      const next = this.#nextSender++;
      if (instead === "alive") this.clients[next % this.clients.length]!.alive(stamp);
      else if (messages) this.senders[next % this.senders.length]!.message(stamp);
      else this.clients[next % broadcasters]!.broadcast(stamp);
    }
    for (let i = before; i < this.dirty.length; i++) this.dirty[i]!.flush();
    this.dirty.length = before;
  }

  #counters(): Counters {
    const { accepted, delivered } = this;
    return { ms: performance.now(), accepted, delivered, cpuNs: this.#server.cpuNs };
  }

  async #recordSeries(measureMs: number): Promise<Outcome["series"]> {
    const series: Outcome["series"] = [];
    let before = this.#counters();
    for (let leftMs = measureMs; leftMs > 0 && this.#faults.size === 0; leftMs -= 1000) {
      await Bun.sleep(Math.min(1000, leftMs));
      const now = this.#counters();
      const point = pointOf(before, now);
      series.push(point);
      const accepted = Math.round((1000 * (now.accepted - before.accepted)) / (now.ms - before.ms));
      const count = point.delivered > 0 ? point.delivered : accepted;
      this.#report(`measuring: ${count.toLocaleString("en")} per second`);
      before = now;
    }
    return series;
  }

  /** Logs clients in until `count` of them have begun, `loginsAtOnce` at a time. Throws when one fails. */
  async #logIn(count: number): Promise<void> {
    const { clients, spec } = this;
    let reportedMs = performance.now();
    const logInNext = async (): Promise<void> => {
      while (this.#loginsBegun < count && this.#faults.size === 0) {
        const client = clients[this.#loginsBegun++]!;
        const timer = setTimeout(() => this.fault(`a login took longer than ${LOGIN_MS / 1000} s`), LOGIN_MS);
        await client.login();
        clearTimeout(timer);
        if (performance.now() - reportedMs < 1000) continue;
        reportedMs = performance.now();
        this.#report(`${this.#loginsBegun} of ${count} clients logged in`);
      }
    };
    await Promise.race([Promise.all(Array.from({ length: spec.loginsAtOnce }, logInNext)), this.#untilFault()]);
    if (this.#faults.size > 0) throw new Error([...this.#faults].join("; "));
  }

  async #untilFault(): Promise<void> {
    while (this.#faults.size === 0 && this.#state !== "closed") await Bun.sleep(100);
  }

  /** Waits until everything sent has arrived and has its reply. What has not arrived in time counts as lost. */
  async #drain(): Promise<void> {
    const { clients, tally } = this;
    const { broadcasters } = this.spec.scenario;
    const streams: { stream: number; sent: number }[] = [];
    for (const { index, socket } of clients) {
      if (socket === null) continue;
      streams.push({ stream: index, sent: clients[index ^ 1]?.messagesSent ?? 0 });
      for (let b = 0; b < broadcasters; b++) {
        const receives = index !== b && (this.adapter.broadcastersReceive || index >= broadcasters);
        if (receives)
          streams.push({ stream: clients.length + index * broadcasters + b, sent: clients[b]!.broadcastsSent });
      }
    }
    const isDone = (): boolean => {
      let missing = 0;
      for (const { stream, sent } of streams) missing += Math.max(0, sent - tally.next(stream));
      // Refused messages do not arrive.
      const arrived = missing === 0 || missing + tally.lost <= this.refused;
      return arrived && (!this.adapter.replies || clients.every(({ unanswered }) => unanswered === 0));
    };
    for (let waitedMs = 0; waitedMs < DRAIN_MS && !isDone() && this.#faults.size === 0; waitedMs += 20)
      await Bun.sleep(20);
    this.#state = "closed";
    // After a fault there was no wait, so what is still in flight is not lost.
    if (this.#faults.size === 0) for (const { stream, sent } of streams) tally.end(stream, sent);
    const unanswered = clients.reduce((sum, each) => sum + each.unanswered, 0);
    if (this.adapter.replies && unanswered !== 0) this.fault(`${unanswered} requests had no reply`);
  }
}

function slotOf(broadcaster: number, sequence: number): number {
  return broadcaster * BROADCASTS_IN_FLIGHT_MAX + (sequence % BROADCASTS_IN_FLIGHT_MAX);
}

/** The process of the load generator. */
export async function main(): Promise<void> {
  const write = (message: object): void => void process.stdout.write(`${JSON.stringify(message)}\n`);
  try {
    const lines = linesOf(Bun.stdin.stream());
    const spec = JSON.parse((await lines.next()).value as string) as WorkloadSpec;
    const swarm = new Swarm(spec, (progress) => write({ progress }));
    if (spec.measureMs > 0) write({ outcome: await swarm.run() });
    else {
      await swarm.begin();
      write({ slice: null });
      let slice: Slice | null = null;
      for await (const line of lines) write({ slice: (slice = await swarm.measure(Number(line))) });
      write({ outcome: await swarm.end(slice ?? (await swarm.measure(1))) });
    }
    process.exit(0);
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    process.exit(1);
  }
}

if (import.meta.main) await main();
