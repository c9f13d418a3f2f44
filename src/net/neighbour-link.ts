/**
 * One connection of this shard's owner to the owner of another shard, its neighbour, from dialing to its end. There it
 * is a client: it receives the requests of the neighbour's users that concern users of this shard (forwards), and
 * what happens to the neighbour's users. It sends the outcome of each forward, and acknowledges the rest.
 *
 *     message <from> <n> <previous n> <request>         or `stored <from> <ms> <n> <previous n> <request>`
 *     outcome <n> <reply>                               answered `ok`
 *     tell <number> <line>                              see distant-questions.ts
 *     alive <received>                                  answered `ok <received>`
 *
 * It never waits for the neighbour: forwards are read while outcomes are unsent, since two shards could otherwise wait
 * for each other. The number of forwards without an answered outcome is limited by the neighbour, and checked here.
 */
import { Fifo } from "../fifo.ts";
import type { ForeignRequests } from "../chat/foreign-requests.ts";
import { ACK_BYTES_MAX, LINK_ANSWER_MS, LINK_LINE_BYTES_MAX, LINK_UNANSWERED_MAX } from "../limits.ts";
import { NEIGHBOUR_AWAY_MS, WORK_BYTES, WORK_PER_VISIT } from "../limits.ts";
import { encode, equals, nameEnd, parseNumber, startsWith, wordEnd } from "../protocol/ascii.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { Outbox } from "../stream/outbox.ts";
import { SocketWriter } from "../stream/socket-writer.ts";
import type { Sink } from "../stream/turn.ts";
import type { ShardOwner } from "./cluster-handshake.ts";
import type { Connections } from "./connection.ts";
import { type LinkEvents, type LinkFailure, type Owner, OwnerLink, type OwnerLinkOptions } from "./owner-link.ts";
import type { Transport } from "./transport.ts";

/** Receives the other lines of neighbours. */
export interface NeighbourReceiver {
  /** A link to that shard has begun: the list of its online users follows. `outbox` is for that shard. */
  linkUp(shard: number, outbox: Pick<Outbox, "appendLine">): void;
  linkLost(shard: number): void;
  /** False: this is no line that a neighbour sends. */
  receive(shard: number, bytes: Uint8Array, start: number, end: number): boolean;
}

export interface NeighbourLinkOptions extends OwnerLinkOptions {
  self: ShardOwner;
  connections: Connections;
  requests: ForeignRequests;
  others: NeighbourReceiver;
}

/** Why a link has ended, or did not begin. */
export const LINK_ENDS = [
  "unreachable",
  "tls",
  "secret",
  "handshake",
  "refused",
  "closed",
  "goodbye",
  "replaced",
  "silent",
  "unanswered",
  "garbage",
  "gap",
  "overflow",
  "fault",
] as const;
export type LinkEnd = (typeof LINK_ENDS)[number];

/** Receives what becomes of a link. */
export interface LinkOwner {
  up(link: NeighbourLink): void;
  /** The neighbour has outcomes up to that number, but this shard has heard requests up to `heard` only. */
  lostRequests(heard: number, answered: number): void;
  lost(link: NeighbourLink, reason: LinkEnd, why: string): void;
}

/**
 * - `dialing`: waits for the connection and its handshake.
 * - `greeting`: waits for `ok <n>`.
 * - `up`: lines go both ways.
 * - `over`: nothing of it matters any more.
 */
type LinkState = "dialing" | "greeting" | "up" | "over";

const MESSAGE = encode("message ");
const STORED = encode("stored ");
const OK = encode("ok");
const OK_NUMBER = encode("ok ");
const ERR = encode("err ");
const REFUSED = encode("refused ");
const GOODBYE = encode("goodbye ");

export class NeighbourLink implements LinkEvents, Sink {
  readonly owner: Owner;
  /** That of the neighbour: as published, then as it said itself. */
  epoch: number;
  /** Wheel time of the attempt to connect, then of the last line. */
  lastLineMs: number;
  /** Wheel time at which it was up; 0 before. */
  upMs = 0;
  #state: LinkState = "dialing";
  readonly #options: NeighbourLinkOptions;
  readonly #of: LinkOwner;
  readonly #connection: OwnerLink;
  #transport: Transport | null = null;
  #reader = new LineReader(LINK_LINE_BYTES_MAX);
  #writer: SocketWriter | null = null;
  readonly #outbox: Outbox;
  /** It waits in the queue `ready`, and is not read. */
  #isQueued = false;
  /** Position in the neighbour's stream after the last line, and the last one that was acknowledged. */
  #received = 0;
  #acked = 0;
  /**
   * Outcomes that the neighbour has not answered: their numbers, and where in the stream the forwards begin. No
   * position after that is acknowledged.
   */
  readonly #numbers = new Fifo<number>();
  readonly #starts = new Fifo<number>();
  /** `alive` requests without a reply, and the wheel time since which one of them waits. */
  #beats = 0;
  #waitingMs = 0;

  /** `settled`: the attempt to connect has ended. */
  constructor(owner: Owner, options: NeighbourLinkOptions, of: LinkOwner, settled: () => void) {
    const { connections } = options;
    this.owner = owner;
    this.epoch = owner.epoch;
    this.lastLineMs = connections.wheel.nowMs;
    this.#options = options;
    this.#of = of;
    this.#outbox = new Outbox(connections.chat.turn, true, connections.chat.outboxMemory);
    this.#outbox.sink = this;
    this.#connection = new OwnerLink(owner, options, this, settled);
  }

  get isUp(): boolean {
    return this.#state === "up";
  }

  /** Forwards and kept outcomes whose outcome the neighbour has not answered. */
  get unanswered(): number {
    return this.#numbers.size;
  }

  failed(reason: LinkFailure, why: string): void {
    this.#end(reason, why);
  }

  /** The line `heard` leaves when everything that was heard is durable, as all output does. */
  ready(transport: Transport, epoch: number, proof: string): void {
    this.epoch = epoch;
    this.lastLineMs = this.#options.connections.wheel.nowMs;
    this.#transport = transport;
    this.#reader = new LineReader(LINK_LINE_BYTES_MAX, transport);
    this.#writer = new SocketWriter(transport);
    this.#state = "greeting";
    this.#outbox.append(encode(`proof ${proof}\nheard ${this.#options.requests.heard(this.owner.shard)}\n`));
  }

  data(chunk: Buffer): void {
    this.#reader.feed(chunk);
    if (!this.#isQueued) this.#pull();
  }

  /** Another turn has room for its lines. */
  serve(): void {
    this.#isQueued = false;
    this.#transport!.resume();
    this.#pull();
  }

  #enqueue(): void {
    this.#isQueued = true;
    this.#transport!.pause();
    this.#options.connections.ready.add(this);
  }

  #pull(): void {
    const { connections } = this.#options;
    const { rates } = connections;
    const reader = this.#reader;
    const workMax = rates.work + WORK_PER_VISIT;
    if (connections.isCongested && reader.holdsLine) return this.#enqueue();
    while (this.#state !== "over" && reader.next()) {
      rates.work += 1 + reader.lineBytes / WORK_BYTES;
      this.lastLineMs = connections.wheel.nowMs;
      if (reader.tooLong) break;
      try {
        // A CR before the LF belongs to the text of a user: it was dropped where that user sent it.
        this.#line(reader.bytes, reader.start, reader.start + reader.lineBytes - 1);
      } catch (error) {
        connections.chat.report(error);
        this.#end("fault", "an internal error in one of its lines");
      }
      if (rates.work < workMax || !reader.holdsMore || this.#isOver) continue;
      this.#enqueue();
      break;
    }
    if (reader.takeSkipped() > 0) this.#end("garbage", "a line is too long");
    if (this.#state === "up" && this.#ackable - this.#acked >= ACK_BYTES_MAX) this.#sendAlive();
  }

  get #isOver(): boolean {
    return this.#state === "over";
  }

  #line(bytes: Uint8Array, start: number, end: number): void {
    if (this.#state === "greeting") return this.#greeted(bytes, start, end);
    const at = this.#received;
    this.#received += this.#reader.lineBytes;
    if (startsWith(bytes, start, end, MESSAGE)) this.#forward(at, bytes, start + MESSAGE.length, end, false);
    else if (startsWith(bytes, start, end, STORED)) this.#forward(at, bytes, start + STORED.length, end, true);
    else if (equals(bytes, start, end, OK)) this.#outcomeAnswered();
    else if (startsWith(bytes, start, end, OK_NUMBER)) this.#aliveAnswered();
    else if (startsWith(bytes, start, end, ERR)) this.#end("refused", `it replies: ${textOf(bytes, start, end)}`);
    else if (startsWith(bytes, start, end, GOODBYE))
      this.#end("goodbye", `it ends the link: ${textOf(bytes, start, end)}`);
    else if (!this.#options.others.receive(this.owner.shard, bytes, start, end)) this.#garbage(bytes, start, end);
  }

  #greeted(bytes: Uint8Array, start: number, end: number): void {
    const number = startsWith(bytes, start, end, OK_NUMBER) ? parseNumber(bytes, start + OK_NUMBER.length, end) : -1;
    if (number < 0 && startsWith(bytes, start, end, REFUSED))
      return this.#end("refused", `it refuses: ${textOf(bytes, start + REFUSED.length, end)}`);
    if (number < 0) return this.#garbage(bytes, start, end);
    const { connections, requests, others } = this.#options;
    const { shard } = this.owner;
    this.#state = "up";
    this.upMs = connections.wheel.nowMs;
    const heard = requests.heard(shard);
    this.#of.up(this);
    if (!requests.answered(shard, number)) this.#of.lostRequests(heard, number);
    others.linkUp(shard, this.#outbox);
    // The neighbour may not have them. Nothing is acknowledged until it has.
    for (const [kept, outcome] of requests.kept(shard)) this.#sendOutcome(0, kept, outcome);
  }

  /** The words of a forward are bytes[start..end); its line begins at the position `at`. */
  #forward(at: number, bytes: Uint8Array, start: number, end: number, hasTime: boolean): void {
    const fromEnd = nameEnd(bytes, start, end);
    const timeEnd = hasTime ? wordEnd(bytes, fromEnd + 1, end) : fromEnd;
    const numberEnd = wordEnd(bytes, timeEnd + 1, end);
    const previousEnd = wordEnd(bytes, numberEnd + 1, end);
    const number = parseNumber(bytes, timeEnd + 1, numberEnd);
    const previous = parseNumber(bytes, numberEnd + 1, previousEnd);
    if (fromEnd <= start || previousEnd + 1 >= end || previous < 0 || number <= previous)
      return this.#end("garbage", "it sends a request that is not complete");
    if (this.unanswered >= LINK_UNANSWERED_MAX) return this.#overflow();
    const { requests } = this.#options;
    const { shard } = this.owner;
    const from = textOf(bytes, start, fromEnd);
    const outcome = requests.receive(shard, from, number, previous, bytes, previousEnd + 1, end);
    if (outcome === "gap") {
      const heard = requests.heard(shard);
      this.#end("gap", `its request ${number} follows ${previous}, and the last one that arrived is ${heard}`);
    } else if (outcome === "overflow") this.#overflow();
    else this.#sendOutcome(at, number, outcome);
  }

  #overflow(): void {
    this.#end("overflow", "it sends more requests than it may, and does not answer their outcomes");
  }

  #sendOutcome(at: number, number: number, outcome: Uint8Array): void {
    this.#numbers.push(number);
    this.#starts.push(at);
    this.#outbox.appendLine(encode(`outcome ${number} `), outcome, 0, outcome.length - 1);
  }

  #outcomeAnswered(): void {
    if (this.unanswered === 0) return this.#end("garbage", "it answers an outcome that was not sent");
    this.#starts.shift();
    this.#options.requests.answered(this.owner.shard, this.#numbers.shift()!);
  }

  #aliveAnswered(): void {
    if (this.#beats === 0) return this.#end("garbage", "it answers an alive that was not sent");
    this.#beats--;
    this.#waitingMs = this.lastLineMs;
  }

  #garbage(bytes: Uint8Array, start: number, end: number): void {
    this.#end(
      "garbage",
      `it sends what no neighbour sends, beginning with ${JSON.stringify(verbOf(bytes, start, end))}`,
    );
  }

  /** The position up to which the neighbour needs its stream no longer. */
  get #ackable(): number {
    return this.unanswered > 0 ? this.#starts.first! : this.#received;
  }

  #sendAlive(): void {
    this.#acked = this.#ackable;
    if (this.#beats++ === 0) this.#waitingMs = this.#options.connections.wheel.nowMs;
    this.#outbox.append(encode(`alive ${this.#acked}\n`));
  }

  /** Called each LINK_BEAT_MS: shows that this shard is alive, and ends the link when the neighbour is not. */
  beat(): void {
    const { nowMs } = this.#options.connections.wheel;
    if (nowMs - this.lastLineMs > NEIGHBOUR_AWAY_MS)
      return this.#end("silent", `nothing arrives from it for ${NEIGHBOUR_AWAY_MS / 1000} s`);
    if (this.#state !== "up") return;
    if (this.#beats > 0 && nowMs - this.#waitingMs > LINK_ANSWER_MS)
      return this.#end("unanswered", `it has not replied for ${LINK_ANSWER_MS / 1000} s`);
    this.#sendAlive();
  }

  flush(): void {
    if (this.#writer?.write(this.#outbox) === false) this.#end("closed", "the connection is lost");
  }

  drain(): void {
    if (!this.#writer!.isFull) return;
    this.#writer!.isFull = false;
    this.#outbox.markDirty();
  }

  end(): void {
    this.#end("closed", "it closes the connection");
  }

  closed(isReset = false): void {
    this.#end("closed", isReset ? "the connection is reset" : "it closes the connection");
  }

  #end(reason: LinkEnd, why: string): void {
    if (this.#state === "over") return;
    const wasUp = this.#state === "up";
    this.hangUp();
    if (wasUp) this.#options.others.linkLost(this.owner.shard);
    this.#of.lost(this, reason, why);
  }

  /** Another link takes its place. */
  replace(): void {
    this.#end("replaced", "the shard has another owner");
  }

  /** Ends it without a word to anybody. What it has not sent is kept: outcomes are sent again by the next link. */
  hangUp(): void {
    this.#state = "over";
    this.#options.connections.ready.delete(this);
    this.#outbox.sink = null;
    this.#outbox.withdraw();
    this.#connection.hangUp();
  }
}

function textOf(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString("latin1");
}

/** For the log: never the text of a message. */
function verbOf(bytes: Uint8Array, start: number, end: number): string {
  return textOf(bytes, start, Math.min(wordEnd(bytes, start, end), start + 16));
}
