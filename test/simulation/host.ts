import type { Chat } from "../../src/chat/chat.ts";
import { kick, purge } from "../../src/chat/operator.ts";
import type { Database } from "bun:sqlite";
import type { ChatObserver } from "../../src/chat/observer.ts";
import type { Neighbours } from "../../src/chat/neighbours.ts";
import type { Account, Peer, Session } from "../../src/chat/session.ts";
import {
  BROADCAST_LOG_BYTES_MAX,
  JOURNAL_SEGMENTS_KEPT,
  KEEPING_UP_BOUNDS,
  KEEPING_UP_MS,
  LIMITS_DEFAULT,
  LINE_BYTES_MAX,
  PRESENCE_DELAY_MS,
  STORE_RETRY_MS,
} from "../../src/limits.ts";
import { Connection } from "../../src/net/connection.ts";
import type { dial } from "../../src/net/dial.ts";
import type { SocketEvents } from "../../src/net/transport.ts";
import { WebSocketTransport } from "../../src/net/websocket-transport.ts";
import { type Core, type CoreOptions, createCore } from "../../src/server/core.ts";
import { OWED_REPLIES_MS } from "../../src/server/ending.ts";
import { NOTHING } from "../../src/storage/journal-entry.ts";
import { segmentsOf } from "../../src/storage/journal.ts";
import type { Checkpoints } from "../../src/storage/commits.ts";
import { Store } from "../../src/storage/store.ts";
import type { TurnLog } from "../../src/storage/turn-log.ts";
import { TICK_MS } from "../../src/timer-wheel.ts";
import type { Disk } from "./disk.ts";
import { type Ledger, Violation } from "./ledger.ts";
import type { Link } from "./network.ts";

export const PASSWORD = "secret";
export const UNIX_MS = 1_700_000_000_000;
/** Why the session of a link may end: never because of what it sent, or of what waits for it. */
const LINK_REASONS = ["disconnected", "replaced", "shutdown"];

export interface HostChoices {
  names: readonly string[];
  idleTimeoutMs: number;
  lineBytesMax: number;
  clockMs: number;
  /** The clock at the start of the first server, which has the time UNIX_MS; that of this one by default. */
  firstMs?: number;
  newToken?: () => string;
  /** The store, or one that breaks a rule. */
  Store: typeof ObservedStore;
  /** Opens the calls to clients of callback sessions. */
  dial: typeof dial;
  /** Null by default. */
  shards?: CoreOptions["shards"];
  /** Its wall clock is ahead by that. */
  skewMs?: number;
  /** 0 by default: no limit. */
  requestsPerSecondMax?: number;
}

/** The ledger records the blocks that are stored. */
export class ObservedStore extends Store {
  /** A turn is durable when its record is synced. */
  static readonly power: boolean = false;
  readonly #ledger: Ledger;

  constructor(database: Database, journal: TurnLog, checkpoints: Checkpoints, ledger: Ledger) {
    super(database, journal, new.target.power, checkpoints);
    this.#ledger = ledger;
  }

  override block(user: string, other: string): void {
    this.#ledger.block(user, other, true);
    super.block(user, other);
  }

  override unblock(user: string, other: string): void {
    this.#ledger.block(user, other, false);
    super.unblock(user, other);
  }
}

export function tokenOf(number: number): string {
  return `token${String(number).padStart(20, "0")}`;
}

/** A plain session's messages move to the mailbox, except those that the kernel of its connection has taken. */
export type Requeued = (link: Link) => void;

/**
 * A server without listener, event loop and clock: the real core on simulated sockets, and the real store on a
 * simulated disk that survives restarts. The ledger observes the chat.
 */
export class Host {
  chat!: Chat;
  #core!: Core;
  store!: ObservedStore;
  readonly #disk: Disk;
  readonly #choices: HostChoices;
  readonly #ledger: Ledger;
  readonly #requeued: Requeued;
  readonly #links = new Map<Peer, Link>();
  /** Of closed connections too: the messages of their sessions may be requeued later. */
  readonly #linkOf = new WeakMap<Peer, Link>();
  readonly #faults: unknown[] = [];
  clockMs: number;
  /** False while it stops: new connections are refused. */
  listening = true;
  /** Wheel time at which an orderly end of the owner of a shard has begun. */
  endingMs = Number.POSITIVE_INFINITY;
  /** A drain is over: the stop should follow. */
  isDrained = false;
  /** Ends of the turns that have begun. */
  #ends: (() => void)[] = [];
  #ticks = 0;
  #tokens = 0;

  constructor(choices: HostChoices, ledger: Ledger, disk: Disk, requeued: Requeued) {
    this.#choices = choices;
    this.#ledger = ledger;
    this.#disk = disk;
    this.#requeued = requeued;
    this.clockMs = choices.clockMs;
    disk.recorded = () => ledger.recorded();
    this.#start();
  }

  /** Returns the number of recovered records. */
  #start(): number {
    const { journal, records } = this.#disk.start(this.#unixMs);
    this.store = new this.#choices.Store(this.#disk.database, journal, this.#disk.wal, this.#ledger);
    const { names, idleTimeoutMs, lineBytesMax, dial, shards, requestsPerSecondMax = 0 } = this.#choices;
    const ends: (() => void)[] = (this.#ends = []);
    this.#core = createCore({
      clock: { nowMs: () => this.clockMs, unixMs: () => this.#unixMs },
      store: this.store,
      users: names.map((name) => ({ name, password: PASSWORD })),
      passwords: {
        verify: (_account, password) => Buffer.from(password).toString() === PASSWORD,
        prove: () => NOTHING,
      },
      newToken: this.#choices.newToken ?? (() => tokenOf(++this.#tokens)),
      idleTimeoutMs,
      blockMs: 60_000,
      lockoutScope: "address",
      limits: { ...LIMITS_DEFAULT, lineBytesMax, requestsPerSecondMax, failedLoginsPerMinuteMax: 0 },
      commits: () => this.#save(),
      later: (end) => void ends.push(end),
      dial,
      shards,
      observer: this.#observe(),
      // Messages move one or two at a time, and other things happen in between.
      movedBytesPerTurn: 100,
      movesAtOnce: false,
      report: (error) => this.#fault(error),
    });
    this.chat = this.#core.chat;
    if (this.chat.neighbours !== null) this.#watchNeighbours(this.chat.neighbours);
    this.#watchEnd();
    this.isDrained = false;
    return records;
  }

  get core(): Core {
    return this.#core;
  }

  get #unixMs(): number {
    const { clockMs, firstMs = clockMs, skewMs = 0 } = this.#choices;
    return UNIX_MS + skewMs + this.clockMs - firstMs;
  }

  /** The observer does not see them. */
  #watchNeighbours(neighbours: Neighbours): void {
    const forward = neighbours.forward.bind(neighbours);
    neighbours.forward = (from, to, slots, bytes, start, end) => {
      this.#checkTaken(from);
      const slot = forward(from, to, slots, bytes, start, end);
      this.#ledger.forwards(from.name, Buffer.from(bytes.subarray(start, end)).toString("latin1"));
      return slot;
    };
    const ended = neighbours.ended.bind(neighbours);
    neighbours.ended = (session) => {
      const { account, endReason } = session;
      ended(session);
      if (!LINK_REASONS.some((reason) => reason === endReason))
        throw new Violation(`the link of ${account.name} ended as "${endReason}"`);
    };
  }

  #watchEnd(): void {
    const { chat } = this;
    const shutdown = chat.shutdown.bind(chat);
    chat.shutdown = () => {
      if (chat.neighbours?.owesReplies === true && this.clockMs - this.endingMs < OWED_REPLIES_MS)
        throw new Violation("the sessions end before replies that could still come");
      shutdown();
    };
  }

  /** Requests of users of other shards are acted on until the sessions end. */
  #checkTaken({ name, neighbour }: Account): void {
    if (neighbour === null && this.endingMs < Number.POSITIVE_INFINITY)
      throw new Violation(`a request of ${name} is acted on, and the server ends`);
  }

  #fault(error: unknown): void {
    if (!this.#disk.isDead || error instanceof Violation) this.#faults.push(error);
  }

  #save(): boolean | Promise<void> {
    const disk = this.#disk;
    if (disk.isDead || disk.killAt("handled")) return true;
    const saved = this.store.save();
    if (saved === false) throw new Violation("a turn cannot be saved");
    if (saved !== true || disk.isDead) return saved;
    this.#ledger.recorded();
    disk.killAt("saved");
    return true;
  }

  /** The ledger records what the chat decides, and checks the decisions that contradict it. */
  #observe(): ChatObserver {
    const ledger = this.#ledger;
    const text = (bytes: Uint8Array, start: number, end: number): string =>
      Buffer.from(bytes.subarray(start, end)).toString("latin1");
    return {
      loggedIn: (session, replaced) => ledger.began(session, this.chat.wheel.nowMs, replaced !== null),
      sessionEnded: (session, reason) => {
        this.#checkEnd(session, reason);
        ledger.ended(session, reason);
      },
      accepted: (from, to, bytes, start, end, fate) => {
        this.#checkTaken(from);
        ledger.accepts(from.name, to.name, text(bytes, start, end), fate === "sent", this.chat.unixMs);
      },
      loginRefused: () => {},
      lockedOut: () => {},
      flooded: () => {},
      messageRefused: (from, to, code) => void (to !== null && ledger.refuse(from.name, to.name, code)),
      refused: (from, to, code) => ledger.refuse(from.name, to.name, code),
      broadcast: (from, bytes, start, end, receivers) => {
        this.#checkTaken(from);
        ledger.broadcast(from.name, text(bytes, start, end), receivers);
      },
      listed: (by, line) => {
        ledger.checkListed(by.name, line.toString().trimEnd());
      },
      requeued: ({ kind, peer }) => {
        const link = peer === null ? undefined : this.#linkOf.get(peer);
        if (kind === "plain" && link !== undefined) this.#requeued(link);
      },
    };
  }

  #checkEnd(session: Session, reason: string): void {
    const silentMs = this.chat.wheel.nowMs - (this.#ledger.sessions.get(session.token)?.lastLineMs ?? 0);
    if (reason === "expired" && silentMs < this.#choices.idleTimeoutMs - TICK_MS) {
      throw new Violation(`${session.account.name} expired ${silentMs} ms after its last line`);
    }
    if (reason === "disconnected" && session.kind !== "plain") {
      throw new Violation(`${session.account.name}'s ${session.kind} session ended with a connection`);
    }
    if (reason === "slow" && session.outbox.unacked <= LIMITS_DEFAULT.unackedBytesMax) {
      throw new Violation(`${session.account.name} ended as slow with ${session.outbox.unacked} bytes`);
    }
  }

  /** A connection reaches the listener. */
  accept(link: Link): void {
    const web = link.isWeb ? new WebSocketTransport(link, () => this.clockMs) : null;
    const connection = new Connection(this.#core.connections, web ?? link, link.remoteAddress);
    this.#links.set(connection, link);
    this.#linkOf.set(connection, link);
    const receiver: SocketEvents = {
      data: (chunk) => {
        connection.data(chunk);
        const { session } = connection;
        // While it is paused, a line may stay unread and be lost with the connection.
        if (session !== null && !connection.paused && chunk.includes(10)) this.#lineReceived(session);
      },
      drain: () => connection.drain(),
      end: () => connection.end(),
      closed: () => {
        connection.closed();
        this.#links.delete(connection);
      },
      hangUp: () => connection.hangUp(),
    };
    web?.handOver(receiver);
    link.server = web?.events ?? receiver;
  }

  #lineReceived(session: Session): void {
    const observed = this.#ledger.sessions.get(session.token);
    if (observed !== undefined) observed.lastLineMs = this.chat.wheel.nowMs;
  }

  /** One turn of the loop: `ready` runs, then its output is made durable and written. */
  turn(ready: () => void): void {
    this.begin();
    ready();
    this.endTurns();
  }

  begin(): void {
    this.#core.turn.begin();
  }

  /** Ends the turns that have begun; false when none has. */
  endTurns(): boolean {
    if (this.#ends.length === 0) return false;
    for (let end = this.#ends.shift(); end !== undefined; end = this.#ends.shift()) {
      end();
      // A killed server saves nothing, so it may stay congested for ever, and have one turn after another.
      if (this.#disk.isDead) this.#ends.length = 0;
    }
    return true;
  }

  /** See `LoopTurn.saved`. */
  saved(): Promise<void> {
    return this.#core.turn.saved();
  }

  get connections(): ReadonlySet<Connection> {
    return this.#core.connections.open;
  }

  /** Moves the clock, with a tick at each multiple of 64 ms, and presence at each fourth tick, like a server. */
  pass(ms: number): void {
    const untilMs = this.clockMs + ms;
    for (;;) {
      const tickMs = (Math.floor(this.clockMs / TICK_MS) + 1) * TICK_MS;
      if (tickMs > untilMs) break;
      this.clockMs = tickMs;
      this.#tick();
    }
    this.clockMs = untilMs;
  }

  /** The process was stopped for that time, or the clock stepped. */
  jump(ms: number): void {
    this.clockMs += ms;
    this.#tick();
  }

  #tick(): void {
    this.turn(() => {
      this.#core.fireTimers();
      if (++this.#ticks % (PRESENCE_DELAY_MS / TICK_MS) === 0) this.chat.announcements.flush();
      if (this.#ticks % (STORE_RETRY_MS / TICK_MS) === 0) this.store.retry();
    });
  }

  /** An operator ends the session of a user. */
  kick(name: string): void {
    this.turn(() => void kick(this.chat, this.chat.accounts.named(name)!, Buffer.from("because")));
  }

  /** An operator deletes the messages that wait for a user. */
  purge(name: string): void {
    this.turn(() => {
      const account = this.chat.accounts.named(name)!;
      const unacked = account.session?.outbox.messages(0, Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY) ?? [];
      // In a line from the mailbox the text follows the time.
      const texts = new Set(
        unacked.map(({ text }) =>
          Buffer.from(text)
            .toString("latin1")
            .replace(/^\d{13} /, ""),
        ),
      );
      if (!this.store.accepts(0) || purge(this.chat, account, this.store.newNumber()) === null) return;
      this.#ledger.purged(name, texts);
    });
  }

  /** Begins a drain, unless there is one. */
  drain(durationMs: number): void {
    if (!this.chat.isOver) this.turn(() => this.#core.drain(durationMs, () => void (this.isDrained = true)));
  }

  /** Begins an orderly stop. */
  stop(): void {
    this.listening = this.isDrained = false;
    this.turn(() => {
      this.chat.shutdown();
      for (const connection of this.#core.connections.open) connection.close();
    });
  }

  /** Ends the stop, with what is written by now, and starts again. */
  startAgain(): void {
    this.turn(() => {
      for (const call of [...this.#core.callbacks.calls]) call.end();
      for (const link of [...this.#links.values()]) link.serverExits();
    });
    if (this.#disk.isDead) return;
    for (const observed of [...this.#ledger.online.values()]) {
      throw new Violation(`${observed.user} was online when the server had stopped`);
    }
    this.chat.mailboxScheduler.finish();
    const refused = this.#disk.refuses;
    try {
      this.store.close();
      this.#ledger.recorded();
    } catch (error) {
      if (this.#disk.isDead) return;
      if (!refused) throw error;
      this.#ledger.crashed();
    }
    if (this.#disk.isDead) return;
    const records = this.#start();
    if (records > 0 && !refused) throw new Violation(`${records} records were recovered after an orderly stop`);
    this.listening = true;
  }

  /** Starts after a kill. */
  startAfterKill(): void {
    this.#links.clear();
    this.#ledger.crashed();
    this.#start();
    this.listening = true;
  }

  /** The first internal error; undefined when there is none. */
  get fault(): unknown {
    return this.#faults[0];
  }

  /** Throws when an invariant does not hold after a turn. */
  check(): void {
    if (this.fault !== undefined) throw this.fault;
    const { chat } = this;
    const { nowMs } = chat.wheel;
    const segments = segmentsOf(this.#disk).length;
    if (segments > 4 * JOURNAL_SEGMENTS_KEPT) throw new Violation(`the journal has ${segments} segments`);
    if (chat.announcements.group.log.bytes > BROADCAST_LOG_BYTES_MAX + (1 << 20))
      throw new Violation("the broadcast log is too long");
    let heldBytes = chat.departing.heldBytes;
    // An ended session without a reader is not departing, but its messages still move to the mailbox.
    for (const { leaving } of chat.accounts.all) {
      if (leaving !== null && leaving.session.outbox.sink === null) heldBytes += leaving.session.outbox.heldBytes;
    }
    for (const { heldReplyBytes } of this.#core.connections.open) heldBytes += heldReplyBytes;
    for (const session of chat.presence.online) {
      const { outbox, account, peer } = session;
      heldBytes += outbox.heldBytes;
      if (this.#ledger.online.get(account.name)?.session !== session)
        throw new Violation(`${account.name} is online in the chat only`);
      if (outbox.acked > outbox.furthest || outbox.sent > outbox.durable || outbox.durable > outbox.end) {
        throw new Violation(`the positions of ${account.name}'s stream are out of order`);
      }
      const overdue = session.kind === "plain" || session.lastAckMs + 2 * KEEPING_UP_MS + 4 * TICK_MS < nowMs;
      // The last line may have come after the last look at the bound.
      const bound = (overdue ? 1 : KEEPING_UP_BOUNDS) * LIMITS_DEFAULT.unackedBytesMax + LINE_BYTES_MAX;
      // While the disk is full no output leaves, and no session ends as slow.
      if (this.store.writeError === null && outbox.unacked > bound) {
        throw new Violation(`${account.name}'s stream holds ${outbox.unacked} bytes`);
      }
      if (!session.timer.armed) throw new Violation(`${account.name} is online without an idle timer`);
      const silentMs = nowMs - session.lastActivityMs;
      if (silentMs > this.#choices.idleTimeoutMs + 3 * TICK_MS && peer?.paused !== true) {
        throw new Violation(`${account.name} was silent for ${silentMs} ms and is still online`);
      }
    }
    // Links count in part.
    if (chat.neighbours !== null) this.#checkLinks(chat.neighbours);
    else if (chat.outboxMemory.bytes !== heldBytes)
      throw new Violation(`outboxes hold ${heldBytes} bytes, ${chat.outboxMemory.bytes} are counted`);
    this.#checkMailboxes();
  }

  /** The lines of a link are read at any rate, whatever waits to be written to it. */
  #checkLinks(neighbours: Neighbours): void {
    for (const neighbour of neighbours.all) {
      const peer = neighbour?.session?.peer;
      if (peer?.paused === true && !this.store.isCongested && !this.#disk.isDead)
        throw new Violation(`the link of shard ${neighbour!.shard} is not read`);
    }
  }

  #checkMailboxes(): void {
    const total = { messages: 0, bytes: 0 };
    const stored = Map.groupBy(this.store.waiting(), ({ user }) => user);
    for (const account of this.chat.accounts.all) {
      let { waiting, waitingBytes } = account;
      total.messages += waiting;
      total.bytes += waitingBytes;
      for (const { from, messages, bytes } of stored.get(account.name) ?? []) {
        const counted = account.waitingFrom(from);
        if (counted.messages !== messages || counted.bytes !== bytes) {
          throw new Violation(`${account.name}: ${counted.messages} messages of ${from} counted, ${messages} stored`);
        }
        waiting -= messages;
        waitingBytes -= bytes;
      }
      if (waiting !== 0 || waitingBytes !== 0) {
        throw new Violation(`${account.name}: ${waiting} more messages (${waitingBytes}) counted than stored`);
      }
    }
    const counted = this.chat.accounts.waiting;
    if (counted.messages !== total.messages || counted.bytes !== total.bytes) {
      throw new Violation(`${counted.messages} messages (${counted.bytes}) counted in all, not ${total.messages}`);
    }
  }

  /** No message waits in a mailbox, or unacknowledged in a stream. */
  get isQuiet(): boolean {
    const { accounts, presence } = this.chat;
    const { log } = this.chat.announcements.group;
    if (log.followed !== log.end) return false;
    if (accounts.all.some(({ waiting, leaving }) => waiting > 0 || leaving !== null)) return false;
    // A call whose `received` was lost is repeated after its deadline.
    return presence.online.every(({ outbox, kind }) => (kind === "callback" ? outbox.unacked : outbox.unsent) === 0);
  }

  close(): void {
    this.#disk.close();
  }
}
