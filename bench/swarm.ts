import type { Socket } from "bun";
import { DIALECTS, type Dialect, type DialectName, LINE, type Step } from "./dialect.ts";
import { Histogram } from "./histogram.ts";
import { cpuNs, machineTicks, memoryOf, stolen } from "./process-figures.ts";
import * as payload from "./payload.ts";
import type { Scenario } from "./scenario.ts";
import { Tally } from "./tally.ts";

/** What a swarm is to do: JSON on its standard input. It answers with lines of JSON, the last one an Outcome. */
export interface Order {
  dialect: DialectName;
  host: string;
  port: number;
  /** The server's process, whose time and memory are measured; null when it is none of ours. */
  pid: number | null;
  /** The last `crowd` of them say nothing. */
  users: [name: string, password: string][];
  crowd: number;
  scenario: Scenario;
  /** Closed: messages that each client has on their way. Open: so many a second of all together, whatever comes back. */
  window: number;
  rate: number;
  payloadBytes: number;
  /** How often a client of an alive crowd says so. */
  beatMs: number;
  warmupMs: number;
  measureMs: number;
  resumable: boolean;
  /** Clients that log in at the same time. */
  loginsAtOnce: number;
}

/** Values in µs. */
export interface Latency {
  count: number;
  p50: number;
  p99: number;
  p999: number;
  max: number;
  /** Of a histogram of tenths of µs. */
  buckets: [index: number, count: number][];
}

export interface Outcome {
  clients: number;
  seconds: number;
  /** A second: what was accepted and reached all its receivers; and what was received. For `login`: people who came. */
  accepted: number;
  delivered: number;
  /** From when a message was to be sent until it arrived; for a broadcast also until it had arrived at the last one. */
  latency: Latency;
  last: Latency;
  /** How much later than it was due a message of an open loop was sent. */
  lateness: Latency;
  server: {
    /** µs of its processor's time, by delivery or whatever was counted, and the part of one core that it used. */
    cpuMicros: number;
    core: number;
    /** Bytes by client: all that is resident; and without what is a file's. */
    resident: number;
    anonymous: number;
  } | null;
  /** The part of the time in which the swarm had something to do, and of the machine's time that others took. */
  busy: number;
  stolen: number;
  sent: number;
  lost: number;
  twice: number;
  disordered: number;
  /** By second: deliveries, and the part of a core that the server used. */
  series: { delivered: number; core: number }[];
  /** What went wrong; nothing when all is well. */
  faults: string[];
}

const LF = 10;
const CONFIRM_BYTES = 64 << 10;
const CONFIRM_MS = 1_000;
/** Lateness up to here is a machine's own, and no fault of the swarm's. */
const LATE_MICROS = 100;
const DRAIN_MS = 20_000;
const LOGIN_MS = 30_000;
/** Broadcasts of one client that may be on their way: a power of 2. */
const FLIGHTS = 1 << 12;
/** A port can be used again only after a minute: with more addresses there are more of them. */
const SOURCES = 16;
const BUFFER_BYTES = 512;

class Client {
  readonly swarm: Swarm;
  readonly index: number;
  socket: Socket<undefined> | null = null;
  hasLeft = false;
  messagesSent = 0;
  broadcastsSent = 0;
  /** Requests that are not answered yet. */
  unanswered = 0;
  /** When the alive was due that has no answer yet; -1 when there is none. */
  aliveDue = -1;
  received = 0;
  #confirmed = 0;
  /** What is still to be said before it is in. */
  #steps: Step[];
  #entered: (() => void) | null = null;
  #carried: Buffer | null = null;
  readonly #message: Buffer;
  readonly #messageAt: number;
  readonly #broadcast: Buffer | null;
  readonly #broadcastAt: number;
  #next = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  #nextBytes = 0;
  #isTouched = false;

  constructor(swarm: Swarm, index: number) {
    const { dialect, order } = swarm;
    const { users, payloadBytes } = order;
    this.swarm = swarm;
    this.index = index;
    const [name, password] = users[index]!;
    const { broadcasters } = order.scenario;
    const everybody = broadcasters > 0 && (dialect.broadcastersHear || index >= broadcasters);
    this.#steps = dialect.steps(name, password, { everybody, resumable: order.resumable });
    const partner = users[index ^ 1]?.[0] ?? name;
    const message = dialect.message(partner, payloadBytes);
    this.#messageAt = message.head.length;
    const text = payload.newPayload(payload.MESSAGE_MARK, index, payloadBytes);
    this.#message = Buffer.concat([message.head, text, message.tail]);
    const broadcast = dialect.broadcast(payloadBytes);
    this.#broadcastAt = broadcast.head.length;
    const toAll = payload.newPayload(payload.BROADCAST_MARK, index, payloadBytes);
    this.#broadcast = index < broadcasters ? Buffer.concat([broadcast.head, toAll, broadcast.tail]) : null;
  }

  /** Connects and logs in. */
  async enter(): Promise<void> {
    const { host, port } = this.swarm.order;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#entered = resolve;
    const isLocal = host.startsWith("127.");
    this.socket = await Bun.connect({
      hostname: host,
      port,
      ...((isLocal ? { localAddress: `127.0.0.${2 + (this.index % SOURCES)}` } : {}) as object),
      socket: {
        data: (_socket, chunk) => this.hears(chunk),
        drain: () => this.drained(),
        close: () => this.swarm.lost(this),
      },
    });
    this.#say(this.#steps[0]!.say);
    await promise;
  }

  /** Logs out and closes, in a way that leaves the port free at once. */
  async leave(): Promise<void> {
    const { logout } = this.swarm.dialect;
    if (logout !== "") {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#entered = resolve;
      this.#steps = [{ say: logout, until: /^ok/ }];
      this.#say(logout);
      await promise;
    }
    this.hasLeft = true;
    this.socket?.terminate();
  }

  message(stamp: number): void {
    const { swarm } = this;
    payload.stampPayload(this.#message, this.#messageAt, this.messagesSent++, stamp);
    this.#append(this.#message);
    const { aliveEach } = swarm.order.scenario;
    if (aliveEach > 0 && this.messagesSent % aliveEach === 0) this.#append(swarm.dialect.alive);
    swarm.spoke(stamp);
  }

  broadcast(stamp: number): void {
    payload.stampPayload(this.#broadcast!, this.#broadcastAt, this.broadcastsSent, stamp);
    this.swarm.flies(this.index, this.broadcastsSent++);
    this.#append(this.#broadcast!);
  }

  alive(due: number): void {
    this.aliveDue = due;
    this.#append(this.swarm.dialect.alive);
  }

  #append(line: Buffer): void {
    if (this.#nextBytes + line.length > this.#next.length) {
      const larger = Buffer.allocUnsafeSlow(2 * this.#next.length + line.length);
      this.#next.copy(larger, 0, 0, this.#nextBytes);
      this.#next = larger;
    }
    line.copy(this.#next, this.#nextBytes);
    this.#nextBytes += line.length;
    this.unanswered++;
    this.#touch();
  }

  #say(words: string | Buffer): void {
    this.#append(Buffer.from(words as string));
    this.unanswered--;
  }

  #touch(): void {
    if (this.#isTouched) return;
    this.#isTouched = true;
    this.swarm.touched.push(this);
  }

  flush(): void {
    this.#isTouched = false;
    if (this.socket === null) return;
    const taken = this.socket.write(this.#next, 0, this.#nextBytes);
    if (taken <= 0) return;
    if (taken < this.#nextBytes) this.#next.copy(this.#next, 0, taken, this.#nextBytes);
    this.#nextBytes -= taken;
  }

  drained(): void {
    if (this.#nextBytes > 0) this.#touch();
  }

  /** A resumable session's client says how far it has read. */
  confirm(): void {
    if (!this.swarm.order.resumable || this.received === this.#confirmed) return;
    this.#confirmed = this.received;
    this.#append(Buffer.from(`alive ${this.received}\n`));
  }

  hears(chunk: Buffer): void {
    const { swarm } = this;
    swarm.isWorking = true;
    const bytes = this.#carried === null ? chunk : Buffer.concat([this.#carried, chunk]);
    const { lines } = swarm.dialect;
    const { payloadEnd, payloadBytes } = swarm;
    const nowMs = performance.now();
    // A turn may be long: what falls due meanwhile must not wait for its end.
    swarm.offer(nowMs);
    const now = payload.stampAt(nowMs);
    let at = 0;
    /** Where the line ends if it is as long as the last one with a payload: that is mostly so. */
    let length = 0;
    for (;;) {
      let lf = at + length;
      const isGuess = length > 0 && bytes[lf] === LF && isMark(bytes[lf - payloadEnd - payloadBytes]!);
      if (!isGuess) lf = bytes.indexOf(LF, at);
      if (lf < 0) break;
      const start = lf - payloadEnd - payloadBytes;
      if (start >= at && isMark(bytes[start]!) && this.#entered === null) {
        length = lf - at;
        this.#delivered(bytes, start, now);
      } else {
        const kind = this.#entered === null ? lines[bytes[at]!]! : LINE.closer;
        if (kind === LINE.reply) this.#replied(now);
        else if (kind === LINE.closer) this.#look(bytes, at, lf, now);
      }
      if (this.#entered === null) this.received += lf + 1 - at;
      at = lf + 1;
    }
    this.#carried = at < bytes.length ? Buffer.from(bytes.subarray(at)) : null;
    if (this.received - this.#confirmed >= CONFIRM_BYTES) this.confirm();
  }

  #delivered(bytes: Buffer, start: number, now: number): void {
    const { swarm } = this;
    const sender = payload.senderOf(bytes, start);
    const sequence = payload.sequenceOf(bytes, start);
    const age = payload.ageOf(bytes, start, now);
    swarm.delivered++;
    swarm.latency.record(age);
    if (bytes[start] === payload.MESSAGE_MARK) {
      if (sender !== (this.index ^ 1)) return swarm.fault("a message came to somebody else");
      swarm.tally.came(this.index, sequence);
      swarm.accepted++;
      if (swarm.window > 0) swarm.clients[sender]!.message(now);
    } else {
      swarm.tally.came(swarm.clients.length + this.index * swarm.order.scenario.broadcasters + sender, sequence);
      swarm.landed(sender, sequence, age, now);
    }
  }

  #replied(now: number): void {
    this.unanswered--;
    if (this.aliveDue < 0) return;
    this.swarm.latency.record((now - this.aliveDue) & (2 ** 30 - 1));
    this.swarm.accepted++;
    this.aliveDue = -1;
  }

  #look(bytes: Buffer, at: number, lf: number, now: number): void {
    const line = bytes.toString("latin1", at, lf).replace(/\r$/, "");
    const [step] = this.#steps;
    if (step !== undefined) {
      if (step.until.test(line)) {
        this.#steps.shift();
        const [next] = this.#steps;
        if (next !== undefined) return this.#say(next.say);
        this.#entered?.();
        this.#entered = null;
      } else if (line.startsWith("err ") || line.startsWith("-")) this.swarm.fault(`the server said: ${line}`);
      else if (line.startsWith("PING")) this.#say(this.swarm.dialect.answer(line) as string);
      return;
    }
    const answer = this.swarm.dialect.answer(line);
    if (answer === null) this.swarm.fault(`the server said: ${line.slice(0, 100)}`);
    else if (answer === LINE.reply) this.#replied(now);
    else this.#say(answer as string);
  }
}

function isMark(byte: number): boolean {
  return byte === payload.MESSAGE_MARK || byte === payload.BROADCAST_MARK;
}

/** Many clients in one process, which write to each other, and check and time what arrives. */
export class Swarm {
  readonly order: Order;
  readonly dialect: Dialect;
  readonly clients: Client[];
  /** Those of them who talk. */
  readonly talkers: Client[];
  touched: Client[] = [];
  readonly latency = new Histogram();
  readonly last = new Histogram();
  readonly lateness = new Histogram();
  readonly tally: Tally;
  readonly payloadBytes: number;
  /** Bytes of a line behind the payload, but for the LF. */
  readonly payloadEnd: number;
  accepted = 0;
  delivered = 0;
  /** Messages that each client has on their way; 0 when time decides, or none are to be sent any more. */
  window = 0;
  isWorking = false;
  readonly #say: (progress: string) => void;
  readonly #faults = new Set<string>();
  /** Receivers that a broadcast has not reached: [broadcaster * FLIGHTS + sequence % FLIGHTS]. */
  readonly #flights: Int32Array;
  readonly #receivers: number;
  #spoken = 0;
  #turn = 0;
  #spare: Client[] = [];
  #isRunning = true;
  #isOpen = true;
  #entered = 0;
  #isLeaving = false;
  #dueTenths = 0;
  #rate = 0;
  #beating = false;
  #next = 0;
  #idleMs = 0;

  constructor(order: Order, say: (progress: string) => void) {
    this.order = order;
    this.#say = say;
    const { users, scenario, payloadBytes } = order;
    this.dialect = DIALECTS[order.dialect];
    this.payloadBytes = payloadBytes;
    this.payloadEnd = this.dialect.message("x", payloadBytes).tail.length - 1;
    this.clients = users.map((_, index) => new Client(this, index));
    this.talkers = this.clients.slice(0, users.length - order.crowd);
    this.tally = new Tally(users.length * (1 + scenario.broadcasters));
    this.#flights = new Int32Array(scenario.broadcasters * FLIGHTS);
    this.#receivers = users.length - (this.dialect.broadcastersHear ? 1 : scenario.broadcasters);
  }

  fault(what: string): void {
    if (this.#faults.size < 5) this.#faults.add(what);
  }

  lost(client: Client): void {
    client.socket = null;
    if (!this.#isLeaving && !client.hasLeft) this.fault("the server closed a connection");
  }

  /** A message was sent: of so many, one is followed by a broadcast of whose turn it is. */
  spoke(stamp: number): void {
    const { broadcastEach, broadcasters } = this.order.scenario;
    if (broadcastEach > 0 && ++this.#spoken % broadcastEach === 0)
      this.clients[this.#turn++ % broadcasters]!.broadcast(stamp);
  }

  flies(broadcaster: number, sequence: number): void {
    this.#flights[broadcaster * FLIGHTS + (sequence % FLIGHTS)] = this.#receivers;
  }

  /** A broadcast has reached one more receiver. */
  landed(broadcaster: number, sequence: number, age: number, now: number): void {
    if (--this.#flights[broadcaster * FLIGHTS + (sequence % FLIGHTS)]! !== 0) return;
    this.accepted++;
    this.last.record(age);
    if (this.window > 0 && this.order.scenario.broadcastEach === 0) this.clients[broadcaster]!.broadcast(now);
  }

  async run(): Promise<Outcome> {
    const { pid, scenario, warmupMs, measureMs, rate, window } = this.order;
    this.#spin();
    // Of an idle crowd the slope counts, not what a server needs to begin with.
    const crowd = scenario.instead === "login" ? this.order.crowd : this.clients.length;
    const first = scenario.instead === "idle" ? crowd >> 2 : 0;
    await this.#enter(first);
    const before = pid === null ? null : memoryOf(pid);
    await this.#enter(crowd);
    const visits = scenario.instead === "login" ? this.clients.slice(crowd).map(({ index }) => this.#visit(index)) : [];
    const confirms = setInterval(() => this.clients.forEach((client) => client.confirm()), CONFIRM_MS);
    const isTalking = scenario.instead === null;
    if (scenario.instead === "alive") {
      this.#beating = true;
      this.#rate = this.clients.length / (this.order.beatMs / 1000);
    } else if (isTalking) this.#rate = rate;
    this.#dueTenths = performance.now() * 10_000;
    if (isTalking && rate === 0) this.#open(window);
    this.#say("warming up");
    await Bun.sleep(warmupMs);
    for (const histogram of [this.latency, this.last, this.lateness]) histogram.clear();
    this.#idleMs = 0;
    const ticks = machineTicks();
    const from = this.#now();
    const series = await this.#watch(measureMs);
    const to = this.#now();
    const [latency, last, lateness] = [summary(this.latency), summary(this.last), summary(this.lateness)];
    const seconds = (to.ms - from.ms) / 1000;
    const busy = 1 - this.#idleMs / (to.ms - from.ms);
    const stole = stolen(ticks);
    // All that a session costs is there by now: also what it needs to talk.
    const after = pid === null ? null : memoryOf(pid);
    this.window = this.#rate = 0;
    this.#isOpen = false;
    await Promise.all(visits);
    await this.#drain();
    clearInterval(confirms);
    this.#isRunning = false;
    const { accepted, delivered } = { accepted: to.accepted - from.accepted, delivered: to.delivered - from.delivered };
    const counted = Math.max(1, delivered || accepted);
    const byClient = (of: "resident" | "anonymous"): number => (after![of] - before![of]) / (crowd - first);
    return {
      clients: this.clients.length,
      seconds,
      accepted: accepted / seconds,
      delivered: delivered / seconds,
      latency,
      last,
      lateness,
      server:
        pid === null
          ? null
          : {
              cpuMicros: (to.cpuNs - from.cpuNs) / 1000 / counted,
              core: (to.cpuNs - from.cpuNs) / 1e6 / (to.ms - from.ms),
              resident: byClient("resident"),
              anonymous: byClient("anonymous"),
            },
      busy,
      stolen: stole,
      sent: this.clients.reduce((sum, each) => sum + each.messagesSent + each.broadcastsSent, 0),
      lost: this.tally.lost,
      twice: this.tally.twice,
      disordered: this.tally.disordered,
      series,
      faults: [...this.#faults],
    };
  }

  /** The first messages: each answer, or what arrives, makes room for the next. */
  #open(window: number): void {
    const { messages, broadcasters, broadcastEach } = this.order.scenario;
    this.window = window;
    const now = payload.stampAt(performance.now());
    for (let i = 0; i < window; i++) {
      if (messages) for (const client of this.talkers) client.message(now);
      if (broadcastEach === 0) for (let b = 0; b < broadcasters; b++) this.clients[b]!.broadcast(now);
    }
  }

  /** Somebody comes and goes, again and again. */
  async #visit(index: number): Promise<void> {
    while (this.#isOpen && this.#faults.size === 0) {
      const client = new Client(this, index);
      const cameMs = performance.now();
      await client.enter();
      this.latency.record((performance.now() - cameMs) * 10_000);
      this.accepted++;
      await client.leave();
    }
  }

  /** One turn after the other, without ever waiting: whatever is to be said is written once a turn. */
  #spin(): void {
    let sinceMs = performance.now();
    const turn = (): void => {
      // Two arrays in turn: one a turn would be a million a second for the collector.
      const due = this.touched;
      this.touched = this.#spare;
      this.#spare = due;
      for (let i = 0; i < due.length; i++) {
        due[i]!.flush();
        this.isWorking = true;
        if (this.#rate > 0) this.offer(performance.now());
      }
      due.length = 0;
      const nowMs = performance.now();
      this.offer(nowMs);
      if (!this.isWorking) this.#idleMs += nowMs - sinceMs;
      this.isWorking = false;
      sinceMs = nowMs;
      if (this.#isRunning) setImmediate(turn);
    };
    setImmediate(turn);
  }

  /** Sends what an open loop has due by now, each as if it had gone out when it was due. */
  offer(nowMs: number): void {
    const nowTenths = nowMs * 10_000;
    if (this.#rate === 0 || this.#dueTenths > nowTenths) return;
    const before = this.touched.length;
    const gapTenths = 1e7 / this.#rate;
    const { messages, broadcasters } = this.order.scenario;
    for (; this.#dueTenths <= nowTenths; this.#dueTenths += gapTenths) {
      const stamp = payload.stampAt(this.#dueTenths / 10_000);
      this.lateness.record(nowTenths - this.#dueTenths);
      const next = this.#next++;
      if (this.#beating) this.clients[next % this.clients.length]!.alive(stamp);
      else if (messages) this.talkers[next % this.talkers.length]!.message(stamp);
      else this.clients[next % broadcasters]!.broadcast(stamp);
    }
    for (let i = before; i < this.touched.length; i++) this.touched[i]!.flush();
    this.touched.length = before;
  }

  #now(): { ms: number; accepted: number; delivered: number; cpuNs: number } {
    const { accepted, delivered, order } = this;
    return { ms: performance.now(), accepted, delivered, cpuNs: order.pid === null ? 0 : cpuNs(order.pid) };
  }

  async #watch(measureMs: number): Promise<Outcome["series"]> {
    const series: Outcome["series"] = [];
    let before = this.#now();
    for (let leftMs = measureMs; leftMs > 0; leftMs -= 1000) {
      await Bun.sleep(Math.min(1000, leftMs));
      const now = this.#now();
      const passedMs = now.ms - before.ms;
      const delivered = Math.round((1000 * (now.delivered - before.delivered)) / passedMs);
      series.push({ delivered, core: (now.cpuNs - before.cpuNs) / 1e6 / passedMs });
      this.#say(`measuring: ${delivered.toLocaleString("en")} deliveries/s`);
      before = now;
    }
    return series;
  }

  /** Clients come in, until they are so many. */
  async #enter(count: number): Promise<void> {
    const { clients, order } = this;
    let saidMs = performance.now();
    const enterSome = async (): Promise<void> => {
      while (this.#entered < count && this.#faults.size === 0) {
        const client = clients[this.#entered++]!;
        const late = setTimeout(() => this.fault(`a client was not in after ${LOGIN_MS / 1000} s`), LOGIN_MS);
        await client.enter();
        clearTimeout(late);
        if (performance.now() - saidMs < 1000) continue;
        saidMs = performance.now();
        this.#say(`${this.#entered} of ${count} clients are in`);
      }
    };
    await Promise.race([Promise.all(Array.from({ length: order.loginsAtOnce }, enterSome)), this.#faulty()]);
    if (this.#faults.size > 0) throw new Error([...this.#faults].join("; "));
  }

  async #faulty(): Promise<void> {
    while (this.#faults.size === 0 && this.#isRunning) await Bun.sleep(100);
  }

  /** Everything that was sent has arrived everywhere, and is answered; or it counts as lost. */
  async #drain(): Promise<void> {
    const { clients, tally } = this;
    const { broadcasters } = this.order.scenario;
    const streams: { stream: number; sent: number }[] = [];
    for (const { index, socket } of clients) {
      if (socket === null) continue;
      streams.push({ stream: index, sent: clients[index ^ 1]?.messagesSent ?? 0 });
      for (let b = 0; b < broadcasters; b++) {
        const hears = index !== b && (this.dialect.broadcastersHear || index >= broadcasters);
        if (hears)
          streams.push({ stream: clients.length + index * broadcasters + b, sent: clients[b]!.broadcastsSent });
      }
    }
    const isDone = (): boolean =>
      streams.every(({ stream, sent }) => tally.next(stream) >= sent) &&
      (!this.dialect.replies || clients.every(({ unanswered }) => unanswered === 0));
    for (let waitedMs = 0; waitedMs < DRAIN_MS && !isDone() && this.#faults.size === 0; waitedMs += 20)
      await Bun.sleep(20);
    this.#isLeaving = true;
    for (const { stream, sent } of streams) tally.end(stream, sent);
    const unanswered = clients.reduce((sum, each) => sum + each.unanswered, 0);
    if (this.dialect.replies && unanswered !== 0) this.fault(`${unanswered} requests were not answered`);
  }
}

/** Whether an open loop measured itself: it could not send in time, or not as much as it should. */
export function isBehind({ accepted, lateness, latency }: Outcome, rate: number): boolean {
  return accepted < 0.99 * rate || lateness.p99 > Math.max(LATE_MICROS, latency.p99 / 10);
}

function summary(histogram: Histogram): Latency {
  const micros = (part: number): number => histogram.percentile(part) / 10;
  const { count, max, buckets } = histogram;
  return { count, p50: micros(0.5), p99: micros(0.99), p999: micros(0.999), max: max / 10, buckets };
}

if (import.meta.main) {
  const say = (what: object): void => void process.stdout.write(`${JSON.stringify(what)}\n`);
  try {
    const order = (await Bun.stdin.json()) as Order;
    say({ outcome: await new Swarm(order, (progress) => say({ progress })).run() });
    process.exit(0);
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    process.exit(1);
  }
}
