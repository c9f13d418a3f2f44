/**
 * One connection of the load generator: sends what the Swarm asks for, and checks and times what arrives. The Swarm
 * decides when to send, and holds all counters.
 */
import type { Socket } from "bun";
import { type ProtocolAdapter, LINE_KIND, type Step } from "./protocol-adapter.ts";
import type { Histogram } from "../report/histogram.ts";
import type { WorkloadSpec } from "./workload-spec.ts";
import * as payload from "./payload.ts";
import type { Tally } from "./tally.ts";

const LF = 10;
/** A resumable session acknowledges after this many received bytes. */
const ACK_BYTES = 64 << 10;
/** Source addresses: a closed port is reserved for a minute (TIME_WAIT), so one address may run out of ports. */
const SOURCE_ADDRESSES = 16;
const BUFFER_BYTES = 512;
/** The shortest payload for which the length of the next line is predicted. */
const GUESS_BYTES_MIN = 40;

/** What a Client needs of its Swarm. */
export interface SwarmState {
  readonly spec: WorkloadSpec;
  readonly adapter: ProtocolAdapter;
  readonly clients: readonly Client[];
  /** The number of this run, in each payload. */
  readonly runNumber: number;
  readonly payloadBytes: number;
  /** Bytes between the payload and the LF. */
  readonly payloadEnd: number;
  readonly tally: Tally;
  readonly latency: Histogram;
  /** Clients with unsent output, which is written at the end of the turn. */
  readonly dirty: Client[];
  /** Messages in flight per client; 0 in an open loop and when sending has stopped. */
  readonly window: number;
  accepted: number;
  delivered: number;
  refused: number;
  /** This turn had something to do. */
  isWorking: boolean;
  /** Sends what an open loop has due by now. */
  sendDue(nowMs: number): void;
  /** Called for each message sent, for each broadcast sent, and for each delivery of a broadcast. */
  messageSent(stamp: number): void;
  broadcastSent(broadcaster: number, sequence: number): void;
  broadcastReceived(broadcaster: number, sequence: number, age: number, now: number): void;
  /** Called when the connection of a client has closed. */
  disconnected(client: Client): void;
  fault(what: string): void;
}

/** One connection of a Swarm. */
export class Client {
  readonly swarm: SwarmState;
  readonly index: number;
  socket: Socket<undefined> | null = null;
  isLoggedOut = false;
  messagesSent = 0;
  broadcastsSent = 0;
  /** Requests without a reply. */
  unanswered = 0;
  /** When the `alive` without a reply was due; -1 when there is none. */
  aliveDueStamp = -1;
  /** Bytes of the stream that were received, and acknowledged. */
  received = 0;
  #acked = 0;
  readonly #isResumable: boolean;
  /** The steps of the login (or the logout) that are not complete. */
  #steps: Step[];
  #stepsDone: (() => void) | null = null;
  /** The received part of a line that has no LF yet. */
  #partialLine: Buffer | null = null;
  /** The message to the partner, in which only the payload changes; and where the payload begins. */
  readonly #message: Buffer;
  readonly #messageAt: number;
  readonly #broadcast: Buffer | null;
  readonly #broadcastAt: number;
  #output = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  #outputBytes = 0;
  #isDirty = false;

  constructor(swarm: SwarmState, index: number) {
    const { adapter, spec } = swarm;
    const { users, payloadBytes } = spec;
    this.swarm = swarm;
    this.index = index;
    const [name, password] = users[index]!;
    const { broadcasters } = spec.scenario;
    const broadcasts = broadcasters > 0 && (adapter.broadcastersReceive || index >= broadcasters);
    this.#isResumable = spec.resumable === "half" ? index % 2 === 1 : spec.resumable;
    this.#steps = adapter.steps(name, password, { broadcasts, resumable: this.#isResumable });
    const partner = users[index ^ 1]?.[0] ?? name;
    const message = adapter.message(partner, payloadBytes);
    this.#messageAt = message.head.length;
    const text = payload.newPayload(payload.MESSAGE_MARK, index, swarm.runNumber, payloadBytes);
    this.#message = Buffer.concat([message.head, text, message.tail]);
    const broadcast = adapter.broadcast(payloadBytes);
    this.#broadcastAt = broadcast.head.length;
    const broadcastText = payload.newPayload(payload.BROADCAST_MARK, index, swarm.runNumber, payloadBytes);
    this.#broadcast = index < broadcasters ? Buffer.concat([broadcast.head, broadcastText, broadcast.tail]) : null;
  }

  /** Connects and logs in. Resolves when the login is complete. */
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

  /** Logs out, and resets the connection so that its port is free at once. */
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

  /** Sends bytes that are not counted as a request. */
  #send(bytes: string | Buffer): void {
    this.#append(Buffer.from(bytes as string));
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

  /** Acknowledges what was received, in a resumable session. */
  sendAck(): void {
    if (!this.#isResumable || this.received === this.#acked) return;
    this.#acked = this.received;
    this.#append(Buffer.from(`alive ${this.received}\n`));
  }

  data(chunk: Buffer): void {
    const { swarm } = this;
    swarm.isWorking = true;
    // In the scenario login, clients that stay online receive only `joined` and `left`, which are not measured.
    if (swarm.spec.scenario.instead === "login" && this.index < swarm.spec.crowd && this.#stepsDone === null) return;
    const bytes = this.#partialLine === null ? chunk : Buffer.concat([this.#partialLine, chunk]);
    const { kinds: lines } = swarm.adapter;
    const { payloadEnd, payloadBytes } = swarm;
    const nowMs = performance.now();
    // A turn may be long: messages that fall due meanwhile must not wait for its end.
    swarm.sendDue(nowMs);
    const now = payload.stampAt(nowMs);
    let at = 0;
    /** Length of the last line with a payload. Most lines have the same length, so the LF is tried there first. */
    let length = 0;
    let first = 0;
    for (;;) {
      let lf = at + length;
      const isGuess =
        length > 0 && bytes[lf] === LF && bytes[at] === first && isMark(bytes[lf - payloadEnd - payloadBytes]!);
      if (!isGuess) lf = bytes.indexOf(LF, at);
      if (lf < 0) break;
      const start = lf - payloadEnd - payloadBytes;
      const isLoggedIn = this.#stepsDone === null;
      if (start >= at && isMark(bytes[start]!) && isLoggedIn) {
        // With shorter payloads, two lines could be as long as this one.
        if (payloadBytes >= GUESS_BYTES_MIN) length = lf - at;
        first = bytes[at]!;
        this.#payloadReceived(bytes, start, now);
      } else {
        const kind = isLoggedIn ? lines[bytes[at]!]! : LINE_KIND.closer;
        if (kind === LINE_KIND.reply) this.#replyReceived(now);
        else if (kind === LINE_KIND.closer) this.#otherLine(bytes, at, lf, now);
      }
      if (isLoggedIn) this.received += lf + 1 - at; // The stream begins after the reply to the login.
      at = lf + 1;
    }
    this.#partialLine = at < bytes.length ? Buffer.from(bytes.subarray(at)) : null;
    if (this.received - this.#acked >= ACK_BYTES) this.sendAck();
  }

  #payloadReceived(bytes: Buffer, start: number, now: number): void {
    const { swarm } = this;
    // A message that was in a mailbox since an earlier run.
    if (payload.runOf(bytes, start) !== swarm.runNumber) return;
    const sender = payload.senderOf(bytes, start);
    const sequence = payload.sequenceOf(bytes, start);
    const age = payload.ageOf(bytes, start, now);
    swarm.delivered++;
    const isMessage = bytes[start] === payload.MESSAGE_MARK;
    // With messages, broadcasts are timed until their last receiver only.
    if (isMessage || !swarm.spec.scenario.messages) swarm.latency.record(age);
    if (isMessage) {
      if (sender !== (this.index ^ 1)) return swarm.fault("a message arrived at the wrong client");
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

  /** A line that is examined as text: of the login, an event, an error. */
  #otherLine(bytes: Buffer, at: number, lf: number, now: number): void {
    const line = bytes.toString("latin1", at, lf).replace(/\r$/, "");
    const [step] = this.#steps;
    if (line.startsWith("PING")) return this.#send(`PONG${line.slice(4)}\r\n`);
    if (step !== undefined) {
      if (step.expect.test(line)) {
        this.#steps.shift();
        const [next] = this.#steps;
        if (next !== undefined) return this.#send(next.send);
        this.#stepsDone?.();
        this.#stepsDone = null;
      } else if (line.startsWith("err ") || line.startsWith("-"))
        this.swarm.fault(`the server refused the login: ${line}`);
      return;
    }
    if (this.swarm.spec.mayRefuse === true && line.startsWith("err internal")) {
      this.swarm.refused++;
      return this.#replyReceived(now);
    }
    if (line === "PONG") this.#replyReceived(now);
    else this.swarm.fault(`unexpected line of the server: ${line.slice(0, 100)}`);
  }
}

function isMark(byte: number): boolean {
  return byte === payload.MESSAGE_MARK || byte === payload.BROADCAST_MARK;
}
