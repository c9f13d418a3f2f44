import type { Socket } from "bun";
import { type ProtocolAdapter, LINE, type Step } from "./protocol-adapter.ts";
import type { Histogram } from "../report/histogram.ts";
import type { WorkloadSpec } from "./workload-spec.ts";
import * as payload from "./payload.ts";
import type { Tally } from "./tally.ts";

const LF = 10;
const CONFIRM_BYTES = 64 << 10;
/** A port can be used again only after a minute: with more addresses there are more of them. */
const SOURCES = 16;
const BUFFER_BYTES = 512;
const GUESS_BYTES_MIN = 40;

/** What all clients of a swarm share, and tell it. */
export interface SwarmState {
  readonly order: WorkloadSpec;
  readonly dialect: ProtocolAdapter;
  readonly clients: readonly Client[];
  readonly payloadBytes: number;
  /** Bytes of a line behind the payload, but for the LF. */
  readonly payloadEnd: number;
  readonly tally: Tally;
  readonly latency: Histogram;
  /** Who has something to write when the turn ends. */
  readonly touched: Client[];
  /** Messages that each client has on their way; 0 when time decides, or none are to be sent any more. */
  readonly window: number;
  accepted: number;
  delivered: number;
  refused: number;
  isWorking: boolean;
  offer(nowMs: number): void;
  spoke(stamp: number): void;
  flies(broadcaster: number, sequence: number): void;
  landed(broadcaster: number, sequence: number, age: number, now: number): void;
  lost(client: Client): void;
  fault(what: string): void;
}

/** One connection of a swarm: says what it is told to, and checks and times what arrives. */
export class Client {
  readonly swarm: SwarmState;
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
  readonly #isResumable: boolean;
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

  constructor(swarm: SwarmState, index: number) {
    const { dialect, order } = swarm;
    const { users, payloadBytes } = order;
    this.swarm = swarm;
    this.index = index;
    const [name, password] = users[index]!;
    const { broadcasters } = order.scenario;
    const everybody = broadcasters > 0 && (dialect.broadcastersHear || index >= broadcasters);
    this.#isResumable = order.resumable === "half" ? index % 2 === 1 : order.resumable;
    this.#steps = dialect.steps(name, password, { everybody, resumable: this.#isResumable });
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
    if (!this.#isResumable || this.received === this.#confirmed) return;
    this.#confirmed = this.received;
    this.#append(Buffer.from(`alive ${this.received}\n`));
  }

  hears(chunk: Buffer): void {
    const { swarm } = this;
    swarm.isWorking = true;
    // To a crowd that only stays, nothing is said but who comes and goes: that is not what is to be timed here.
    if (swarm.order.scenario.instead === "login" && this.index < swarm.order.crowd && this.#entered === null) return;
    const bytes = this.#carried === null ? chunk : Buffer.concat([this.#carried, chunk]);
    const { lines } = swarm.dialect;
    const { payloadEnd, payloadBytes } = swarm;
    const nowMs = performance.now();
    // A turn may be long: what falls due meanwhile must not wait for its end.
    swarm.offer(nowMs);
    const now = payload.stampAt(nowMs);
    let at = 0;
    /** The line ends here if it is like the last one with a payload: that is mostly so. */
    let length = 0;
    let first = 0;
    for (;;) {
      let lf = at + length;
      const isGuess =
        length > 0 && bytes[lf] === LF && bytes[at] === first && isMark(bytes[lf - payloadEnd - payloadBytes]!);
      if (!isGuess) lf = bytes.indexOf(LF, at);
      if (lf < 0) break;
      const start = lf - payloadEnd - payloadBytes;
      const isIn = this.#entered === null;
      if (start >= at && isMark(bytes[start]!) && isIn) {
        // Shorter ones could be two lines that are together as long as another one.
        if (payloadBytes >= GUESS_BYTES_MIN) length = lf - at;
        first = bytes[at]!;
        this.#delivered(bytes, start, now);
      } else {
        const kind = isIn ? lines[bytes[at]!]! : LINE.closer;
        if (kind === LINE.reply) this.#replied(now);
        else if (kind === LINE.closer) this.#look(bytes, at, lf, now);
      }
      if (isIn) this.received += lf + 1 - at; // Not the reply to the login: the stream begins behind it.
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
    if (this.swarm.order.mayRefuse === true && line.startsWith("err internal")) {
      this.swarm.refused++;
      return this.#replied(now);
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
