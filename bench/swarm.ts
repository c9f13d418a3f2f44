import type { Socket } from "bun";
import { readFileSync, readdirSync } from "node:fs";
import { LineReader } from "../src/protocol/line-reader.ts";
import { Histogram } from "./histogram.ts";

/** What a swarm is to do, as JSON in its first argument. It answers with one line, a Outcome as JSON. */
export interface Order {
  port: number;
  /** The server's process, whose time is measured. */
  pid: number;
  clients: number;
  /** Messages that each client has on their way; 0: they are sent at `rate`, whatever becomes of them. */
  inflight: number;
  /** Messages a second, of all clients together. */
  rate: number;
  payloadBytes: number;
  warmupMs: number;
  measureMs: number;
  resumable: boolean;
}

/** Latencies in µs, of what arrived while it measured. */
export interface Latency {
  p50: number;
  p99: number;
  p999: number;
  max: number;
  /** How many there are, and how many of them are over 5 ms. */
  count: number;
  pauses: number;
}

export interface Outcome {
  /** A second: replies, and messages that arrived. */
  accepted: number;
  delivered: number;
  serverMicrosPerMessage: number;
  /** From when a message was to be sent until it arrived. */
  latency: Latency;
  /** How much later than it should have been it was sent. */
  lateness: Latency;
  /** What went wrong; nothing when all is well. */
  faults: string[];
}

const LINE_BYTES_MAX = 1 << 20;
const CONFIRM_BYTES = 64 << 10;
const CONFIRM_MS = 2_000;
const DRAIN_MS = 10_000;
const PAUSE_TENTHS = 50_000;
const SEQUENCE_DIGITS = 9;
const STAMP_DIGITS = 12;
const HEAD_DIGITS = 5;
const NEXT_BYTES = 64 << 10;
/** Letters at the beginning of lines, and of `sent` and `stored` behind `ok `. */
const [M, S, O] = [0x6d, 0x73, 0x6f] as const;

/** Tenths of µs since the program began: small enough for an int32, as the histogram wants it, for three minutes. */
const tenths = (): number => performance.now() * 10_000;

class Client {
  readonly all: Swarm;
  readonly name: string;
  socket!: Socket<undefined>;
  isIn = false;
  sent = 0;
  answered = 0;
  /** Messages of the one who writes to this client: how many came, which is also the next one's number. */
  heard = 0;
  received = 0;
  #confirmed = 0;
  readonly #reader = new LineReader(LINE_BYTES_MAX);
  readonly #template: Buffer;
  #next = Buffer.allocUnsafeSlow(NEXT_BYTES);
  #nextBytes = 0;
  #isTouched = false;
  #stamp = 0;

  constructor(all: Swarm, index: number) {
    this.all = all;
    this.name = nameOf(index);
    const head = `message ${nameOf(index ^ 1)} `;
    const payload = "0".repeat(SEQUENCE_DIGITS + STAMP_DIGITS).padEnd(all.order.payloadBytes, "x");
    this.#template = Buffer.from(`${head}${payload}\n`);
  }

  /** The next message, stamped with when it should have been sent. */
  send(stamp: number): void {
    const line = this.#template;
    if (this.#nextBytes + line.length > this.#next.length) {
      const larger = Buffer.allocUnsafeSlow(2 * this.#next.length);
      this.#next.copy(larger, 0, 0, this.#nextBytes);
      this.#next = larger;
    }
    if (stamp !== this.#stamp) {
      this.#stamp = stamp;
      writeDigits(line, MESSAGE_HEAD_BYTES + SEQUENCE_DIGITS, STAMP_DIGITS, stamp);
    }
    line.copy(this.#next, this.#nextBytes);
    this.#nextBytes += line.length;
    this.sent++;
    countUp(line, MESSAGE_HEAD_BYTES + SEQUENCE_DIGITS - 1);
    this.#touch();
  }

  #say(line: string): void {
    this.#nextBytes += this.#next.write(line, this.#nextBytes, "latin1");
    this.#touch();
  }

  #touch(): void {
    if (this.#isTouched) return;
    this.#isTouched = true;
    this.all.touched.push(this);
  }

  flush(): void {
    this.#isTouched = false;
    const taken = this.socket.write(this.#next, 0, this.#nextBytes);
    if (taken < 0) return this.all.fault("a connection was closed");
    if (taken > 0 && taken < this.#nextBytes) this.#next.copy(this.#next, 0, taken, this.#nextBytes);
    this.#nextBytes -= taken;
  }

  drained(): void {
    if (this.#nextBytes > 0) this.#touch();
  }

  confirm(): void {
    if (!this.all.order.resumable || this.received === this.#confirmed) return;
    this.#confirmed = this.received;
    this.#say(`alive ${this.received}\n`);
  }

  hears(chunk: Buffer): void {
    const reader = this.#reader;
    const { all } = this;
    const nowTenths = tenths();
    let credit = 0;
    reader.feed(chunk);
    while (reader.next()) {
      const { bytes, start } = reader;
      const first = bytes[start];
      if (!this.isIn) this.#loggedIn(bytes, start, reader.end);
      else {
        this.received += reader.lineBytes;
        if (first === O && bytes[start + 3] === S) credit++;
        else if (first === M) this.#message(bytes, start + MESSAGE_HEAD_BYTES, nowTenths);
        else if (first === S) this.#message(bytes, start + STORED_HEAD_BYTES, nowTenths);
        else if (first !== O) this.#other(bytes, start, reader.end);
      }
    }
    this.answered += credit;
    all.accepted += credit;
    if (all.inflight > 0) for (; credit > 0; credit--) this.send(nowTenths);
    if (this.received - this.#confirmed >= CONFIRM_BYTES) this.confirm();
  }

  #loggedIn(bytes: Uint8Array, start: number, end: number): void {
    if (bytes[start] !== O) this.#other(bytes, start, end);
    this.isIn = true;
    this.all.entered();
  }

  #message(bytes: Uint8Array, digits: number, nowTenths: number): void {
    if (readDigits(bytes, digits, SEQUENCE_DIGITS) !== this.heard++) this.all.fault("a message came out of order");
    this.all.delivered++;
    this.all.latency.record(nowTenths - readDigits(bytes, digits + SEQUENCE_DIGITS, STAMP_DIGITS));
  }

  #other(bytes: Uint8Array, start: number, end: number): void {
    const line = Buffer.from(bytes.subarray(start, end)).toString("latin1");
    if (!/^(joined|left) /.test(line)) this.all.fault(`the server said: ${line.slice(0, 100)}`);
  }
}

function nameOf(index: number): string {
  return `u${String(index).padStart(HEAD_DIGITS, "0")}`;
}

const MESSAGE_HEAD_BYTES = `message ${nameOf(0)} `.length;
const STORED_HEAD_BYTES = `stored ${nameOf(0)} 1700000000000 `.length;

function writeDigits(bytes: Buffer, at: number, count: number, value: number): void {
  let left = Math.floor(value);
  for (let i = at + count - 1; i >= at; i--) {
    const tens = Math.floor(left / 10);
    bytes[i] = 48 + left - 10 * tens;
    left = tens;
  }
}

/** Adds one to the digits that end at `last`: cheaper than to write them all. */
function countUp(bytes: Buffer, last: number): void {
  let at = last;
  while (bytes[at] === 57) bytes[at--] = 48;
  bytes[at]!++;
}

function readDigits(bytes: Uint8Array, at: number, count: number): number {
  let value = 0;
  for (let i = at; i < at + count; i++) value = 10 * value + bytes[i]! - 48;
  return value;
}

/** Many clients in one process: each writes to its neighbour, and checks what its neighbour writes. */
class Swarm {
  readonly order: Order;
  readonly touched: Client[] = [];
  readonly latency = new Histogram();
  readonly lateness = new Histogram();
  readonly faults = new Set<string>();
  accepted = 0;
  delivered = 0;
  /** Messages that an answer makes room for; 0 when time does. */
  inflight = 0;
  readonly #clients: Client[];
  #waiting = 0;
  #entered = (): void => {};

  constructor(order: Order) {
    this.order = order;
    this.#clients = Array.from({ length: order.clients }, (_, index) => new Client(this, index));
  }

  fault(what: string): void {
    if (this.faults.size < 5) this.faults.add(what);
  }

  entered(): void {
    if (--this.#waiting === 0) this.#entered();
  }

  async run(): Promise<Outcome> {
    const { inflight, rate, warmupMs, measureMs } = this.order;
    await this.#enter();
    const spin = (): void => {
      for (const client of this.touched.splice(0)) client.flush();
      if (this.#isRunning) setImmediate(spin);
    };
    spin();
    const confirms = setInterval(() => this.#clients.forEach((client) => client.confirm()), CONFIRM_MS);
    this.inflight = inflight;
    for (const client of this.#clients) for (let i = 0; i < inflight; i++) client.send(tenths());
    const stopOffering = rate > 0 ? this.#offer(rate) : (): void => {};
    await Bun.sleep(warmupMs);
    this.latency.clear();
    this.lateness.clear();
    const before = this.#now();
    await Bun.sleep(measureMs);
    const after = this.#now();
    const [latency, lateness] = [summary(this.latency), summary(this.lateness)];
    this.inflight = 0;
    stopOffering();
    await this.#drain();
    clearInterval(confirms);
    this.#isRunning = false;
    const seconds = (after.ms - before.ms) / 1000;
    const delivered = after.delivered - before.delivered;
    return {
      accepted: (after.accepted - before.accepted) / seconds,
      delivered: delivered / seconds,
      serverMicrosPerMessage: (after.cpuNs - before.cpuNs) / 1000 / delivered,
      latency,
      lateness,
      faults: [...this.faults],
    };
  }

  #isRunning = true;

  #now(): { ms: number; accepted: number; delivered: number; cpuNs: number } {
    const { accepted, delivered } = this;
    return { ms: performance.now(), accepted, delivered, cpuNs: cpuNs(this.order.pid) };
  }

  async #enter(): Promise<void> {
    const { port, resumable } = this.order;
    for (const client of this.#clients) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#waiting = 1;
      this.#entered = resolve;
      client.socket = await Bun.connect({
        hostname: "127.0.0.1",
        port,
        socket: {
          data: (_socket, chunk) => client.hears(chunk),
          drain: () => client.drained(),
          close: () => this.fault("the server closed a connection"),
        },
      });
      client.socket.write(`login ${client.name} secret${resumable ? " resumable" : ""}\n`);
      await promise;
    }
  }

  /** Sends at a fixed rate, each message as if it had gone out when it was due. */
  #offer(rate: number): () => void {
    const gapTenths = 1e7 / rate;
    let dueTenths = tenths();
    let next = 0;
    let isOn = true;
    const offer = (): void => {
      if (!isOn) return;
      const nowTenths = tenths();
      for (; dueTenths <= nowTenths; dueTenths += gapTenths) {
        this.lateness.record(nowTenths - dueTenths);
        this.#clients[next++ % this.#clients.length]!.send(dueTenths);
      }
      setImmediate(offer);
    };
    offer();
    return () => void (isOn = false);
  }

  /** Everything that was sent is answered and has arrived. */
  async #drain(): Promise<void> {
    const total = (of: (client: Client) => number): number => this.#clients.reduce((sum, each) => sum + of(each), 0);
    const sent = total((client) => client.sent);
    const untilMs = performance.now() + DRAIN_MS;
    const left = (): number => 2 * sent - total((client) => client.answered + client.heard);
    while (left() > 0 && performance.now() < untilMs) await Bun.sleep(10);
    if (left() !== 0) this.fault(`of ${sent} messages ${sent - total((client) => client.heard)} did not arrive`);
  }
}

function summary(histogram: Histogram): Latency {
  const micros = (part: number): number => histogram.percentile(part) / 10;
  const { count } = histogram;
  const pauses = histogram.above(PAUSE_TENTHS);
  return { p50: micros(0.5), p99: micros(0.99), p999: micros(0.999), max: histogram.max / 10, count, pauses };
}

/** Nanoseconds that all threads of a process have run. */
function cpuNs(pid: number): number {
  let ns = 0;
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    ns += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, "latin1").split(" ")[0]);
  }
  return ns;
}

if (import.meta.main) {
  const outcome = await new Swarm(JSON.parse(process.argv[2]!) as Order).run();
  process.stdout.write(`${JSON.stringify(outcome)}\n`);
  process.exit(0);
}
