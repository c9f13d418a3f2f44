import { Chat } from "../../src/chat/chat.ts";
import type { Peer, Session } from "../../src/chat/session.ts";
import {
  BROADCAST_LOG_BYTES_MAX,
  JOURNAL_SEGMENTS_KEPT,
  KEEPING_UP_BOUNDS,
  KEEPING_UP_MS,
  LIMITS_DEFAULT,
  PRESENCE_DELAY_MS,
  STORE_RETRY_MS,
} from "../../src/limits.ts";
import { LoopTurn } from "../../src/stream/turn.ts";
import { Callback, Callbacks } from "../../src/net/callback.ts";
import { Connection, Connections } from "../../src/net/connection.ts";
import type { DialHandlers, DialedSocket, dial } from "../../src/net/dial.ts";
import { NOTHING } from "../../src/storage/journal-entry.ts";
import { segmentsOf } from "../../src/storage/journal.ts";
import { Store } from "../../src/storage/store.ts";
import { TICK_MS, TimerWheel } from "../../src/timer-wheel.ts";
import type { Disk } from "./disk.ts";
import { type Ledger, Violation } from "./ledger.ts";
import type { Link } from "./network.ts";

export const PASSWORD = "secret";
const UNIX_MS = 1_700_000_000_000;

export interface HostChoices {
  names: readonly string[];
  silenceMs: number;
  lineBytesMax: number;
  clockMs: number;
  /** How the server calls the clients of callback sessions. */
  dial: typeof dial;
}

/** A plain session's connection has given up: what its kernel took by now was delivered, all else is in the mailbox. */
export type Settled = (link: Link) => void;

/**
 * The server without its listener, loop and clock: its real connections and callbacks on simulated sockets, and its
 * store, which outlives restarts. Every call of the chat that matters is told to the ledger.
 */
export class Host {
  chat!: Chat;
  #connections!: Connections;
  #callbacks!: Callbacks;
  store!: Store;
  readonly #disk: Disk;
  readonly #choices: HostChoices;
  readonly #ledger: Ledger;
  readonly #settled: Settled;
  readonly #links = new Map<Peer, Link>();
  /** Of those that are closed, too: a session may be settled later. */
  readonly #linkOf = new WeakMap<Peer, Link>();
  readonly #faults: unknown[] = [];
  clockMs: number;
  /** New connections are refused while it restarts. */
  listening = true;
  #turn!: LoopTurn;
  /** Turns that have begun. */
  #ends: (() => void)[] = [];
  #ticks = 0;
  #tokens = 0;
  /** The login under way ends a session of the same user. */
  #replaces = false;

  constructor(choices: HostChoices, ledger: Ledger, disk: Disk, settled: Settled) {
    this.#choices = choices;
    this.#ledger = ledger;
    this.#disk = disk;
    this.#settled = settled;
    this.clockMs = choices.clockMs;
    disk.recorded = () => ledger.recorded();
    this.#start();
  }

  /** As server.ts composes and loads it. Returns how many records it recovered. */
  #start(): number {
    const { journal, records } = this.#disk.start(this.#unixMs);
    this.store = new Store(this.#disk.database, journal, false, this.#disk.wal);
    this.#watchBlocks();
    const { names, silenceMs, lineBytesMax } = this.#choices;
    const ends: (() => void)[] = (this.#ends = []);
    this.#turn = new LoopTurn({
      begins: () => {
        chat.wheel.begin(this.clockMs);
        chat.unixMs = this.#unixMs;
        this.#connections.serveReady();
      },
      ends: () => {
        chat.turnEnds(); // What is moved in pieces is moved while other things happen: no turn follows for it.
        return this.#connections.ready.size > 0;
      },
      commits: () => this.#save(),
      failed: (error) => this.#fault(error),
      later: (end) => void ends.push(end),
    });
    const chat = (this.chat = new Chat({
      wheel: new TimerWheel(this.clockMs),
      turn: this.#turn,
      store: this.store,
      passwords: {
        verify: (_account, password) => Buffer.from(password).toString() === PASSWORD,
        prove: () => NOTHING,
      },
      newToken: () => `token${String(++this.#tokens).padStart(20, "0")}`,
      newCaller: (session, address, port, secret) => new Callback(this.#callbacks, session, address, port, secret),
      idleTimeoutMs: silenceMs,
      blockMs: 60_000,
      lockoutScope: "address",
      limits: { ...LIMITS_DEFAULT, lineBytesMax, requestsPerSecondMax: 0, failedLoginsPerMinuteMax: 0 },
      report: (error) => this.#fault(error),
    }));
    for (const name of names) chat.accounts.add(name, PASSWORD);
    for (const { user, other } of this.store.blocks()) {
      chat.accounts.named(user)!.block(chat.accounts.named(other)!);
    }
    for (const { user, from, messages, bytes } of this.store.waiting()) {
      chat.accounts.named(user)!.countWaiting(from, messages, bytes);
    }
    this.#callbacks = new Callbacks(chat, () => {}, this.#choices.dial);
    this.#connections = new Connections(chat);
    this.#watch(chat);
    return records;
  }

  get #unixMs(): number {
    return UNIX_MS + this.clockMs - this.#choices.clockMs;
  }

  #fault(error: unknown): void {
    if (!this.#disk.isDead) this.#faults.push(error);
  }

  #save(): boolean | Promise<void> {
    const disk = this.#disk;
    if (disk.isDead || disk.dies("handled")) return true;
    const saved = this.store.save();
    if (saved === false) throw new Violation("a turn cannot end, and nothing leaves");
    if (saved !== true || disk.isDead) return saved;
    this.#ledger.recorded();
    disk.dies("saved");
    return true;
  }

  #watch(chat: Chat): void {
    const ledger = this.#ledger;
    const { login, end, send, broadcast } = chat;
    chat.login = (peer, account, password, options) => {
      this.#replaces = account.session !== null;
      login.call(chat, peer, account, password, options);
    };
    const add = chat.presence.add;
    chat.presence.add = (session) => {
      add.call(chat.presence, session);
      ledger.began(session, chat.wheel.nowMs, this.#replaces);
    };
    chat.end = (session, reason) => {
      if (!session.ended) this.#checkEnd(session, reason);
      const known = session.ended;
      end.call(chat, session, reason);
      if (!known && session.ended) ledger.ended(session, reason);
    };
    chat.send = (from, to, bytes, start, endsAt) => {
      const text = Buffer.from(bytes.subarray(start, endsAt)).toString("latin1");
      const fate = send.call(chat, from, to, bytes, start, endsAt);
      if (fate !== "full") ledger.accept(from.name, to.name, text, fate === "sent", chat.unixMs);
      return fate;
    };
    chat.broadcast = (from, bytes, start, endsAt) => {
      const count = broadcast.call(chat, from, bytes, start, endsAt);
      ledger.broadcast(from.name, Buffer.from(bytes.subarray(start, endsAt)).toString("latin1"), count);
      return count;
    };
    const { list } = chat.presence;
    chat.presence.list = (asker, most) => {
      const line = list.call(chat.presence, asker, most);
      const expected = ledger.seenBy(asker.name);
      if (line.toString() !== `${expected}\n`) throw new Violation(`${asker.name} saw "${line}" for "${expected}"`);
      return line;
    };
    const { requeue: settle } = chat.mailbox;
    chat.mailbox.requeue = (session, bytesMax) => {
      const link = session.peer === null ? undefined : this.#linkOf.get(session.peer);
      if (session.kind === "plain" && link !== undefined) this.#settled(link);
      // In pieces: these messages are few and short.
      return settle.call(chat.mailbox, session, bytesMax === Number.POSITIVE_INFINITY ? bytesMax : 1);
    };
    const { spill: rest } = chat.mailbox;
    chat.mailbox.spill = (session, upTo, bytesMax) => {
      if (bytesMax === Number.POSITIVE_INFINITY) return rest.call(chat.mailbox, session, upTo, bytesMax);
      const most = Math.min(bytesMax, 100);
      const bytes = rest.call(chat.mailbox, session, upTo, most);
      return bytes < most ? bytes : bytesMax;
    };
  }

  #checkEnd(session: Session, reason: string): void {
    const silentMs = this.chat.wheel.nowMs - (this.#ledger.stays.get(session.token)?.heardMs ?? 0);
    if (reason === "expired" && silentMs < this.#choices.silenceMs - TICK_MS) {
      throw new Violation(`${session.account.name} expired, though heard ${silentMs} ms ago`);
    }
    if (reason === "disconnected" && session.kind !== "plain") {
      throw new Violation(`${session.account.name}'s ${session.kind} session ended with a connection`);
    }
    if (reason === "slow" && session.outbox.unacked <= LIMITS_DEFAULT.unackedBytesMax) {
      throw new Violation(`${session.account.name} was called slow with ${session.outbox.unacked} bytes`);
    }
  }

  #watchBlocks(): void {
    const { store } = this;
    const { block, unblock } = store;
    store.block = (user, other) => {
      this.#ledger.block(user, other, true);
      block.call(store, user, other);
    };
    store.unblock = (user, other) => {
      this.#ledger.block(user, other, false);
      unblock.call(store, user, other);
    };
  }

  /** A connection reaches the listener. */
  accept(link: Link): void {
    const connection = new Connection(this.#connections, link, link.remoteAddress);
    this.#links.set(connection, link);
    this.#linkOf.set(connection, link);
    link.server = {
      data: (chunk) => {
        connection.data(chunk);
        const { session } = connection;
        // While it is paused a line may lie unread, and be lost with the connection.
        if (session !== null && !connection.paused && chunk.includes(10)) this.#heard(session);
      },
      drain: () => connection.drain(),
      end: () => connection.end(),
      closed: () => {
        connection.closed();
        this.#links.delete(connection);
      },
    };
  }

  #heard(session: Session): void {
    const stay = this.#ledger.stays.get(session.token);
    if (stay !== undefined) stay.heardMs = this.chat.wheel.nowMs;
  }

  /** One turn of the loop: what became ready, then what it appended is safe and is written. */
  turn(ready: () => void): void {
    this.#turn.begin();
    ready();
    for (let end = this.#ends.shift(); end !== undefined; end = this.#ends.shift()) end();
  }

  /** Time passes as it does for a server: a tick at each multiple of 64 ms, presence with each fourth. */
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

  /** The process was stopped for so long, or the clock stepped. */
  jump(ms: number): void {
    this.clockMs += ms;
    this.#tick();
  }

  #tick(): void {
    this.turn(() => {
      this.chat.wheel.advance(this.clockMs);
      if (++this.#ticks % (PRESENCE_DELAY_MS / TICK_MS) === 0) this.chat.announceNow();
      if (this.#ticks % (STORE_RETRY_MS / TICK_MS) === 0) this.store.retry();
    });
  }

  /** The server is told to stop. */
  stop(): void {
    this.listening = false;
    this.turn(() => {
      this.chat.shutdown();
      for (const connection of this.#connections.open) connection.close();
    });
  }

  /** It has stopped, whatever was not written by now; and starts again. */
  startAgain(): void {
    this.turn(() => {
      for (const call of [...this.#callbacks.calls]) call.end();
      for (const link of [...this.#links.values()]) link.serverDies();
    });
    if (this.#disk.isDead) return;
    for (const stay of [...this.#ledger.online.values()]) {
      throw new Violation(`${stay.user} was online when the server had stopped`);
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
    if (records > 0 && !refused) throw new Violation(`${records} records were left by a server that ended in order`);
    this.listening = true;
  }

  /** It was killed, and starts again. */
  startAfterKill(): void {
    this.#links.clear();
    this.#ledger.crashed();
    this.#start();
    this.listening = true;
  }

  /** What must hold after every turn. */
  check(): void {
    const [fault] = this.#faults;
    if (fault !== undefined) throw fault instanceof Error ? fault : new Violation(String(fault));
    const { chat } = this;
    const { nowMs } = chat.wheel;
    const segments = segmentsOf(this.#disk).length;
    if (segments > 3 * JOURNAL_SEGMENTS_KEPT) throw new Violation(`the journal has ${segments} segments`);
    if (chat.broadcastGroup.log.bytes > BROADCAST_LOG_BYTES_MAX + (1 << 20))
      throw new Violation("the broadcast log is too long");
    for (const session of chat.presence.online) {
      const { outbox, account, peer } = session;
      if (this.#ledger.online.get(account.name)?.session !== session) throw new Violation(`${account.name} is a ghost`);
      if (outbox.acked > outbox.furthest || outbox.sent > outbox.durable || outbox.durable > outbox.end) {
        throw new Violation(`the positions of ${account.name}'s stream are out of order`);
      }
      const overdue = session.kind === "plain" || session.lastAckMs + 2 * KEEPING_UP_MS + 4 * TICK_MS < nowMs;
      // While the disk takes nothing, nothing leaves, and nobody can be slow.
      if (
        this.store.writeError === null &&
        outbox.unacked > (overdue ? LIMITS_DEFAULT.unackedBytesMax : KEEPING_UP_BOUNDS * LIMITS_DEFAULT.unackedBytesMax)
      ) {
        throw new Violation(`${account.name}'s stream holds ${outbox.unacked} bytes`);
      }
      if (!session.timer.armed) throw new Violation(`${account.name} is online without an idle timer`);
      const silentMs = nowMs - session.lastActivityMs;
      if (silentMs > this.#choices.silenceMs + 3 * TICK_MS && peer?.paused !== true) {
        throw new Violation(`${account.name} was silent for ${silentMs} ms and is still online`);
      }
    }
    this.#checkMailboxes();
  }

  #checkMailboxes(): void {
    const kept = Map.groupBy(this.store.waiting(), ({ user }) => user);
    for (const account of this.chat.accounts.all) {
      let { waiting, waitingBytes } = account;
      for (const { from, messages, bytes } of kept.get(account.name) ?? []) {
        const counted = account.waitingFrom(from);
        if (counted.messages !== messages || counted.bytes !== bytes) {
          throw new Violation(`${account.name}: ${counted.messages} messages of ${from} counted, ${messages} kept`);
        }
        waiting -= messages;
        waitingBytes -= bytes;
      }
      if (waiting !== 0 || waitingBytes !== 0) {
        throw new Violation(`${account.name}: ${waiting} more messages (${waitingBytes}) counted than kept`);
      }
    }
  }

  /** Nothing waits for anybody: not in a mailbox, nor unconfirmed in a stream. */
  get isQuiet(): boolean {
    const { accounts, presence } = this.chat;
    const { log } = this.chat.broadcastGroup;
    if (log.followed !== log.end) return false;
    if (accounts.all.some(({ waiting, leaving }) => waiting > 0 || leaving !== null)) return false;
    // A call whose `received` was lost is made again at its deadline.
    return presence.online.every(({ outbox, kind }) => (kind === "callback" ? outbox.unacked : outbox.unsent) === 0);
  }

  close(): void {
    this.#disk.close();
  }
}

/** The server's end of a call: nobody has answered yet, until there is a link. */
export class Dialed implements DialedSocket {
  readonly port: number;
  readonly #handlers: DialHandlers;
  #link: Link | null = null;
  /** The server has given it up, or nobody answers. */
  isClosed = false;

  constructor(port: number, handlers: DialHandlers) {
    this.port = port;
    this.#handlers = handlers;
  }

  /** Somebody answers. */
  open(link: Link): void {
    this.#link = link;
    link.server = {
      data: (chunk) => this.#handlers.data(chunk),
      drain: () => this.#handlers.drain(),
      // The runtime closes when the other side ends.
      end: () => link.end(),
      closed: () => this.#closed(),
    };
    this.#handlers.open();
  }

  write(bytes: Buffer, start: number, count: number): number {
    return this.#link?.write(bytes, start, count) ?? 0;
  }

  end(): void {
    if (this.#link === null) this.#closed();
    else this.#link.serverDies();
  }

  terminate(): void {
    this.end();
  }

  #closed(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.#handlers.closed();
  }
}
