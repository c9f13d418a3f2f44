import type { Socket } from "bun";
import { type ProtocolAdapter, LINE_KIND, type Step } from "./protocol-adapter.ts";
import type { Histogram } from "../report/histogram.ts";
import type { WorkloadSpec } from "./workload-spec.ts";
import * as payload from "./payload.ts";
import type { Tally } from "./tally.ts";

const LF = 10;
const ACK_BYTES = 64 << 10;
/** A port can be used again only after a minute: with more addresses there are more of them. */
const SOURCE_ADDRESSES = 16;
const BUFFER_BYTES = 512;
const GUESS_BYTES_MIN = 40;

/** What all clients of a swarm share, and tell it. */
export interface SwarmState {
  readonly spec: WorkloadSpec;
  readonly adapter: ProtocolAdapter;
  readonly clients: readonly Client[];
  readonly payloadBytes: number;
  /** Bytes of a line behind the payload, but for the LF. */
  readonly payloadEnd: number;
  readonly tally: Tally;
  readonly latency: Histogram;
  /** Who has something to write when the turn ends. */
  readonly dirty: Client[];
  /** Messages that each client has on their way; 0 when time decides, or none are to be sent any more. */
  readonly window: number;
  accepted: number;
  delivered: number;
  refused: number;
  isWorking: boolean;
  sendDue(nowMs: number): void;
  messageSent(stamp: number): void;
  broadcastSent(broadcaster: number, sequence: number): void;
  broadcastReceived(broadcaster: number, sequence: number, age: number, now: number): void;
  disconnected(client: Client): void;
  fault(what: string): void;
}

/** One connection of a swarm: says what it is told to, and checks and times what arrives. */
export class Client {
  readonly swarm: SwarmState;
  readonly index: number;
  socket: Socket<undefined> | null = null;
  isLoggedOut = false;
  messagesSent = 0;
  broadcastsSent = 0;
  /** Requests that are not answered yet. */
  unanswered = 0;
  /** When the alive was due that has no answer yet; -1 when there is none. */
  aliveDueStamp = -1;
  received = 0;
  #acked = 0;
  readonly #isResumable: boolean;
  /** What is still to be said before it is in. */
  #steps: Step[];
  #stepsDone: (() => void) | null = null;
  #partialLine: Buffer | null = null;
  readonly #message: Buffer;
  readonly #messageAt: number;
  readonly #broadcast: Buffer | null;
  readonly #broadcastAt: number;
  #output = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  #outputBytes = 0;
  #isDirty = false;

  constructor(swarm: SwarmState, index: number) {
    const { adapter: adapter, spec: spec } = swarm;
    const { users, payloadBytes } = spec;
    this.swarm = swarm;
    this.index = index;
    const [name, password] = users[index]!;
    const { broadcasters } = spec.scenario;
    const everybody = broadcasters > 0 && (adapter.broadcastersReceive || index >= broadcasters);
    this.#isResumable = spec.resumable === "half" ? index % 2 === 1 : spec.resumable;
    this.#steps = adapter.steps(name, password, { everybody, resumable: this.#isResumable });
    const partner = users[index ^ 1]?.[0] ?? name;
    const message = adapter.message(partner, payloadBytes);
    this.#messageAt = message.head.length;
    const text = payload.newPayload(payload.MESSAGE_MARK, index, payloadBytes);
    this.#message = Buffer.concat([message.head, text, message.tail]);
    const broadcast = adapter.broadcast(payloadBytes);
    this.#broadcastAt = broadcast.head.length;
    const toAll = payload.newPayload(payload.BROADCAST_MARK, index, payloadBytes);
    this.#broadcast = index < broadcasters ? Buffer.concat([broadcast.head, toAll, broadcast.tail]) : null;
  }

  /** Connects and logs in. */
  async login(): Promise<void> {
    const { host, port } = this.swarm.spec;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#stepsDone = resolve;
    const isLocal = host.startsWith("127.");
    this.socket = await Bun.connect({
      hostname: host,
      port,
      ...((isLocal ? { localAddress: `127.0.0.${2 + (this.index % SOURCE_ADDRESSES)}` } : {}) as object),
      socket: {
        data: (_socket, chunk) => this.data(chunk),
        drain: () => this.drain(),
        close: () => this.swarm.disconnected(this),
      },
    });
    this.#send(this.#steps[0]!.send);
    await promise;
  }

  /** Logs out and closes, in a way that leaves the port free at once. */
  async logout(): Promise<void> {
    const { logout } = this.swarm.adapter;
    if (logout !== "") {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#stepsDone = resolve;
      this.#steps = [{ send: logout, expect: /^ok/ }];
      this.#send(logout);
      await promise;
    }
    this.isLoggedOut = true;
    this.socket?.terminate();
  }

  message(stamp: number): void {
    const { swarm } = this;
    payload.stampPayload(this.#message, this.#messageAt, this.messagesSent++, stamp);
    this.#append(this.#message);
    const { aliveEach } = swarm.spec.scenario;
    if (aliveEach > 0 && this.messagesSent % aliveEach === 0) this.#append(swarm.adapter.alive);
    swarm.messageSent(stamp);
  }

  broadcast(stamp: number): void {
    payload.stampPayload(this.#broadcast!, this.#broadcastAt, this.broadcastsSent, stamp);
    this.swarm.broadcastSent(this.index, this.broadcastsSent++);
    this.#append(this.#broadcast!);
  }

  alive(due: number): void {
    this.aliveDueStamp = due;
    this.#append(this.swarm.adapter.alive);
  }

  #append(line: Buffer): void {
    if (this.#outputBytes + line.length > this.#output.length) {
      const larger = Buffer.allocUnsafeSlow(2 * this.#output.length + line.length);
      this.#output.copy(larger, 0, 0, this.#outputBytes);
      this.#output = larger;
    }
    line.copy(this.#output, this.#outputBytes);
    this.#outputBytes += line.length;
    this.unanswered++;
    this.#markDirty();
  }

  #send(words: string | Buffer): void {
    this.#append(Buffer.from(words as string));
    this.unanswered--;
  }

  #markDirty(): void {
    if (this.#isDirty) return;
    this.#isDirty = true;
    this.swarm.dirty.push(this);
  }

  flush(): void {
    this.#isDirty = false;
    if (this.socket === null) return;
    const taken = this.socket.write(this.#output, 0, this.#outputBytes);
    if (taken <= 0) return;
    if (taken < this.#outputBytes) this.#output.copy(this.#output, 0, taken, this.#outputBytes);
    this.#outputBytes -= taken;
  }

  drain(): void {
    if (this.#outputBytes > 0) this.#markDirty();
  }

  /** A resumable session's client says how far it has read. */
  sendAck(): void {
    if (!this.#isResumable || this.received === this.#acked) return;
    this.#acked = this.received;
    this.#append(Buffer.from(`alive ${this.received}\n`));
  }

  data(chunk: Buffer): void {
    const { swarm } = this;
    swarm.isWorking = true;
    // To a crowd that only stays, nothing is said but who comes and goes: that is not what is to be timed here.
    if (swarm.spec.scenario.instead === "login" && this.index < swarm.spec.crowd && this.#stepsDone === null) return;
    const bytes = this.#partialLine === null ? chunk : Buffer.concat([this.#partialLine, chunk]);
    const { kinds: lines } = swarm.adapter;
    const { payloadEnd, payloadBytes } = swarm;
    const nowMs = performance.now();
    // A turn may be long: what falls due meanwhile must not wait for its end.
    swarm.sendDue(nowMs);
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
      const isIn = this.#stepsDone === null;
      if (start >= at && isMark(bytes[start]!) && isIn) {
        // Shorter ones could be two lines that are together as long as another one.
        if (payloadBytes >= GUESS_BYTES_MIN) length = lf - at;
        first = bytes[at]!;
        this.#payloadReceived(bytes, start, now);
      } else {
        const kind = isIn ? lines[bytes[at]!]! : LINE_KIND.closer;
        if (kind === LINE_KIND.reply) this.#replyReceived(now);
        else if (kind === LINE_KIND.closer) this.#otherLine(bytes, at, lf, now);
      }
      if (isIn) this.received += lf + 1 - at; // Not the reply to the login: the stream begins behind it.
      at = lf + 1;
    }
    this.#partialLine = at < bytes.length ? Buffer.from(bytes.subarray(at)) : null;
    if (this.received - this.#acked >= ACK_BYTES) this.sendAck();
  }

  #payloadReceived(bytes: Buffer, start: number, now: number): void {
    const { swarm } = this;
    const sender = payload.senderOf(bytes, start);
    const sequence = payload.sequenceOf(bytes, start);
    const age = payload.ageOf(bytes, start, now);
    swarm.delivered++;
    swarm.latency.record(age);
    if (bytes[start] === payload.MESSAGE_MARK) {
      if (sender !== (this.index ^ 1)) return swarm.fault("a message came to somebody else");
      swarm.tally.received(this.index, sequence);
      swarm.accepted++;
      if (swarm.window > 0) swarm.clients[sender]!.message(now);
    } else {
      swarm.tally.received(swarm.clients.length + this.index * swarm.spec.scenario.broadcasters + sender, sequence);
      swarm.broadcastReceived(sender, sequence, age, now);
    }
  }

  #replyReceived(now: number): void {
    this.unanswered--;
    if (this.aliveDueStamp < 0) return;
    this.swarm.latency.record((now - this.aliveDueStamp) & (2 ** 30 - 1));
    this.swarm.accepted++;
    this.aliveDueStamp = -1;
  }

  #otherLine(bytes: Buffer, at: number, lf: number, now: number): void {
    const line = bytes.toString("latin1", at, lf).replace(/\r$/, "");
    const [step] = this.#steps;
    if (step !== undefined) {
      if (step.expect.test(line)) {
        this.#steps.shift();
        const [next] = this.#steps;
        if (next !== undefined) return this.#send(next.send);
        this.#stepsDone?.();
        this.#stepsDone = null;
      } else if (line.startsWith("err ") || line.startsWith("-")) this.swarm.fault(`the server said: ${line}`);
      else if (line.startsWith("PING")) this.#send(this.swarm.adapter.answer(line) as string);
      return;
    }
    if (this.swarm.spec.mayRefuse === true && line.startsWith("err internal")) {
      this.swarm.refused++;
      return this.#replyReceived(now);
    }
    const answer = this.swarm.adapter.answer(line);
    if (answer === null) this.swarm.fault(`the server said: ${line.slice(0, 100)}`);
    else if (answer === LINE_KIND.reply) this.#replyReceived(now);
    else this.#send(answer as string);
  }
}

function isMark(byte: number): boolean {
  return byte === payload.MESSAGE_MARK || byte === payload.BROADCAST_MARK;
}
