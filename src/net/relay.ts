/**
 * What a server does with the client of another shard, from the first `login`, `resume` or `as` on: it sends that line
 * to the owner of the shard and reads one reply. After `ok` it passes bytes both ways and parses nothing; after `err`
 * the connection is unauthenticated again. Which requests are relayed is in relays.ts, the connection to the owner in
 * owner-link.ts, and what the owner does with it in relayed-connections.ts.
 */
import type { Waited } from "../chat/session.ts";
import { LINGER_MS, RELAY_REPLY_BYTES_MAX, RELAY_RETRY_MS, RELAY_WAIT_MS } from "../limits.ts";
import { LF } from "../protocol/ascii.ts";
import { refuse } from "../protocol/reply.ts";
import type { Verb } from "../protocol/request.ts";
import { type TimerKind, type TimerWheel, WheelTimer } from "../timer-wheel.ts";
import type { Connection } from "./connection.ts";
import type { Directory } from "./directory.ts";
import { Flow } from "./flow.ts";
import type { LinkEvents, LinkFailure, Owner, OwnerLink } from "./owner-link.ts";
import { formatProxyHeader } from "./proxy-header.ts";
import type { Successor, Transport } from "./transport.ts";

/** Why a login got `err busy`, for metrics: there was no owner, or none that could be used. */
export type RelayRefusal = LinkFailure | "no_owner";
const REFUSALS: readonly RelayRefusal[] = ["no_owner", "unreachable", "tls", "secret", "handshake"];

/** After this reply the owner closes the connection. */
const LOCKED_OUT = "err locked_out";
/** The reply of a shard that never had that token. */
const UNKNOWN = "err unknown_session\n";

/** Of all relays of a process, for metrics. */
export class RelayCounts {
  /** Those whose bytes go both ways. */
  open = 0;
  /** Bytes since the start: from clients, and to clients. */
  bytesUp = 0;
  bytesDown = 0;
  readonly refusals = new Map<RelayRefusal, number>(REFUSALS.map((reason) => [reason, 0]));

  refused(reason: RelayRefusal): void {
    this.refusals.set(reason, (this.refusals.get(reason) ?? 0) + 1);
  }
}

/** What one relay needs of all of them. */
export interface RelayHub {
  readonly directory: Directory;
  readonly counts: RelayCounts;
  readonly wheel: TimerWheel;
  /** From the client's line to the end of both connections. */
  readonly all: Set<Relay>;
  readonly retry: TimerKind<Relay>;
  readonly late: TimerKind<Relay>;
  /** Null when too many attempts are in progress. */
  connect(owner: Owner, receiver: LinkEvents): OwnerLink | null;
  failed(owner: Owner, reason: LinkFailure, why: string): void;
  succeeded(shard: number): void;
}

/**
 * - `waiting`: for an owner, or for a connection to it.
 * - `asking`: the line was sent; waits for the reply.
 * - `relaying`: bytes go both ways, at the latest when earlier replies are written.
 * - `over`: it has no part in anything that follows.
 */
type RelayState = "waiting" | "asking" | "relaying" | "over";

/** The connection of one client, from its line on. It receives the events of the connection to the owner. */
export class Relay implements LinkEvents {
  readonly connection: Connection;
  readonly #relays: RelayHub;
  readonly #verb: Verb;
  readonly #line: Buffer;
  /** The shards that may have the session, the present one first: each but the last one may not know the token. */
  readonly #shards: number[];
  #state: RelayState = "waiting";
  /** `elapsedMs` when the line came, or earlier, and how much earlier at most. */
  readonly #sinceMs: number;
  readonly #uncertainMs: number;
  #failure: RelayRefusal = "no_owner";
  #link: OwnerLink | null = null;
  /** Of the owner that the line was sent to. */
  #epoch = 0;
  #reply: Buffer = Buffer.alloc(0);
  /** To the owner, and to the client. */
  #up = new Flow(() => this.#upEnded());
  readonly #down = new Flow(() => this.#downEnded());
  #toOwner: Transport | null = null;
  #toClient: Transport | null = null;
  #hasClientClosed = false;
  #hasOwnerClosed = false;
  /** `late`, also for the last bytes when one of the two connections is closed; and `retry`. */
  readonly #timer = new WheelTimer<Relay>(this);
  readonly #pause = new WheelTimer<Relay>(this);

  constructor(relays: RelayHub, connection: Connection, verb: Verb, line: Buffer, shards: readonly number[]) {
    this.#relays = relays;
    this.connection = connection;
    this.#verb = verb;
    this.#line = line;
    this.#shards = [...shards];
    const { arrivalMs, elapsedMs } = relays.wheel;
    const { ms, uncertainMs } = connection.waited; // At a gateway of this process, whose line is relayed again.
    this.#sinceMs = arrivalMs - ms;
    this.#uncertainMs = elapsedMs - arrivalMs + uncertainMs;
    relays.all.add(this);
    relays.wheel.schedule(this.#timer, relays.late, RELAY_WAIT_MS);
  }

  get shard(): number {
    return this.#shards[0]!;
  }

  get #waited(): Waited {
    return { ms: this.#relays.wheel.elapsedMs - this.#sinceMs, uncertainMs: this.#uncertainMs };
  }

  /** Connects to the owner, unless that is under way. */
  attempt(): void {
    if (this.#state !== "waiting") return;
    if (this.connection.isClosed) return this.#leave();
    const { directory, wheel, retry } = this.#relays;
    const owner = directory.ownerOf(this.shard);
    if (owner !== null) this.#link ??= this.#relays.connect(owner, this);
    if (this.#link === null) wheel.schedule(this.#pause, retry, RELAY_RETRY_MS);
  }

  failed(reason: LinkFailure, why: string): void {
    this.#relays.failed(this.#link!.owner, reason, why);
    this.#failure = reason;
    this.#link = null;
    this.#relays.wheel.schedule(this.#pause, this.#relays.retry, RELAY_RETRY_MS);
  }

  /** `epoch`: the highest that was published. */
  ownerChanged(epoch: number): void {
    if (this.#state !== "waiting") return void (this.#epoch < epoch && this.hangUp());
    this.#link?.hangUp();
    this.#link = null;
    this.attempt();
  }

  /** Its connection and line, unless the line was sent. */
  giveUp(): [Connection, Buffer][] {
    if (this.#state !== "waiting") return [];
    this.#link?.hangUp();
    this.#leave();
    this.connection.waited = this.#waited;
    return [[this.connection, this.#line]];
  }

  /** For too long there was no owner to take the line; or, at the end, no reader of the last bytes. */
  timedOut(): void {
    if (this.#state !== "waiting") return this.hangUp();
    this.#link?.hangUp();
    this.#relays.counts.refused(this.#failure);
    this.#leave();
    refuse(this.connection.replies, "busy", "no server can take this request at the moment; try again");
    this.connection.resume();
  }

  /** Nothing of this client's line has been sent before: from now on another attempt could act on it twice. */
  ready(transport: Transport, epoch: number, proof: string): void {
    if (this.connection.isClosed) return this.hangUp();
    const { wheel } = this.#relays;
    for (const timer of [this.#timer, this.#pause]) wheel.cancel(timer);
    this.#relays.succeeded(this.shard);
    this.#state = "asking";
    this.#epoch = epoch;
    this.#toOwner = transport;
    this.#up.to = transport;
    const { address, isEncrypted, isWebSocket } = this.connection;
    const header = formatProxyHeader(address, isEncrypted, isWebSocket, this.#waited);
    this.#up.write(Buffer.concat([Buffer.from(`proof ${proof}\n`), header, this.#line, Buffer.from("\n")]));
  }

  data(chunk: Buffer): void {
    if (this.#state === "relaying") {
      this.#relays.counts.bytesDown += chunk.length;
      return this.#down.write(chunk);
    }
    if (this.#state !== "asking") return;
    const reply = (this.#reply = this.#reply.length === 0 ? chunk : Buffer.concat([this.#reply, chunk]));
    if (reply.length < 3) return;
    const lf = reply.indexOf(LF);
    if (/^ok[ \n]/.test(reply.toString("latin1", 0, 3))) this.#accepted();
    else if (lf >= 0) this.#refused(reply.subarray(0, lf + 1));
    else if (reply.length > RELAY_REPLY_BYTES_MAX) this.hangUp();
  }

  #refused(line: Buffer): void {
    const connection = this.connection;
    const text = line.toString("latin1");
    this.#link!.hangUp();
    if (text === UNKNOWN && this.#shards.length > 1 && !connection.isClosed) return this.#askNext();
    this.#leave();
    if (connection.isClosed) return;
    connection.replies.append(line);
    if (this.#verb === "as" || text.startsWith(LOCKED_OUT)) connection.close();
    else connection.resume();
  }

  #askNext(): void {
    const { wheel, late } = this.#relays;
    this.#shards.shift();
    this.#state = "waiting";
    this.#link = null;
    this.#up.stop();
    this.#up = new Flow(() => this.#upEnded());
    this.#reply = Buffer.alloc(0);
    wheel.schedule(this.#timer, late, RELAY_WAIT_MS);
    this.attempt();
  }

  /** The connection to the owner is not read until the client's earlier replies are written. */
  #accepted(): void {
    if (this.connection.state !== "unauthenticated") return this.hangUp();
    this.#state = "relaying";
    this.#relays.counts.open++;
    this.#down.from = this.#toOwner;
    this.#relays.counts.bytesDown += this.#reply.length;
    this.#down.write(this.#reply);
    this.connection.relayTo(new RelayedClient(this));
  }

  begin(transport: Transport, unread: Uint8Array[], hasEnded: boolean): void {
    this.#toClient = transport;
    this.#up.from = transport;
    this.#down.to = transport;
    for (const chunk of unread) this.clientData(chunk as Buffer);
    if (this.#up.length === 0) transport.resume();
    this.#down.flush();
    if (hasEnded) this.#up.end();
  }

  /** Bytes in memory. */
  get heldBytes(): number {
    return this.#up.length + this.#down.length;
  }

  clientData(chunk: Buffer): void {
    this.#relays.counts.bytesUp += chunk.length;
    this.#up.write(chunk);
  }

  clientDrain(): void {
    this.#down.flush();
  }

  clientEnd(): void {
    this.#up.end();
  }

  clientClosed(isReset: boolean): void {
    this.#hasClientClosed = true;
    this.connection.closed();
    this.#toClient?.closed();
    this.#down.stop();
    if (this.#state === "over") return;
    if (this.#hasOwnerClosed) return this.#leave();
    if (isReset && !this.#up.isEnded) return this.hangUp();
    this.#lastBytes();
    this.#up.end();
  }

  drain(): void {
    this.#up.flush();
  }

  /** The owner has closed its side: what it has sent is passed on first. */
  end(): void {
    if (this.#state === "asking") this.#closeUnanswered();
    else this.#down.end();
  }

  closed(isReset = false): void {
    this.#hasOwnerClosed = true;
    this.#up.stop();
    if (this.#state === "asking") return this.#closeUnanswered();
    if (this.#state === "over") return;
    if (this.#hasClientClosed) return this.#leave();
    if (isReset && !this.#down.isEnded) return this.hangUp();
    this.#lastBytes();
    this.#down.end();
  }

  #closeUnanswered(): void {
    this.#link!.hangUp();
    this.#leave();
    this.connection.close();
  }

  /** One of the two is closed: the other gets this long to take what is left. */
  #lastBytes(): void {
    this.#relays.wheel.schedule(this.#timer, this.#relays.late, LINGER_MS);
  }

  /** The last byte to the owner is written. */
  #upEnded(): void {
    if (this.#hasClientClosed || this.#down.isEnded) this.#toOwner!.end();
    else this.#toOwner!.shutdown();
  }

  #downEnded(): void {
    if (this.#hasOwnerClosed || this.#up.isEnded) this.#toClient!.end();
    else this.#toClient!.shutdown();
  }

  /** Ends both connections at once, with a reset. */
  hangUp(): void {
    if (this.#state === "over") return;
    this.#leave();
    this.#link?.hangUp();
    if (this.#toClient === null) this.connection.hangUp();
    else if (!this.#hasClientClosed) this.#toClient.reset();
  }

  #leave(): void {
    if (this.#state === "relaying") this.#relays.counts.open--;
    this.#state = "over";
    this.#relays.all.delete(this);
    for (const timer of [this.#timer, this.#pause]) this.#relays.wheel.cancel(timer);
  }
}

/** The events of the client's socket. */
class RelayedClient implements Successor {
  readonly #relay: Relay;

  constructor(relay: Relay) {
    this.#relay = relay;
  }

  get heldBytes(): number {
    return this.#relay.heldBytes;
  }

  begin(transport: Transport, unread: Uint8Array[], hasEnded: boolean): void {
    this.#relay.begin(transport, unread, hasEnded);
  }

  data(chunk: Buffer): void {
    this.#relay.clientData(chunk);
  }

  drain(): void {
    this.#relay.clientDrain();
  }

  end(): void {
    this.#relay.clientEnd();
  }

  closed(isReset = false): void {
    this.#relay.clientClosed(isReset);
  }

  hangUp(): void {
    this.#relay.hangUp();
  }
}
