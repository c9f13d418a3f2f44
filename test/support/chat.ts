import type { Passwords } from "../../src/chat/accounts.ts";
import type { Chat } from "../../src/chat/chat.ts";
import { receive } from "../../src/chat/commands.ts";
import type { LockoutScope } from "../../src/auth/lockouts.ts";
import type { Shards } from "../../src/chat/neighbours.ts";
import type { ChatObserver } from "../../src/chat/observer.ts";
import { type Account, type Caller, NOT_WAITED, type Peer, type Session } from "../../src/chat/session.ts";
import { LIMITS_DEFAULT, type Limits, PRESENCE_DELAY_MS } from "../../src/limits.ts";
import { LineReader } from "../../src/protocol/line-reader.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import type { LoopTurn, Sink } from "../../src/stream/turn.ts";
import type { Connections } from "../../src/net/connection.ts";
import { type Core, createCore } from "../../src/server/core.ts";
import { NOTHING } from "../../src/storage/journal-entry.ts";
import { openDatabase } from "../../src/storage/database.ts";
import { Store } from "../../src/storage/store.ts";
import { TICK_MS } from "../../src/timer-wheel.ts";

export const SILENCE_MS = 35_000;
export const BLOCK_MS = 60_000;
export const PASSWORD = "secret";
/** Unix time at the start of the clock that tests move by hand. */
export const UNIX_MS = 1_700_000_000_000;

export interface Choices {
  idleTimeoutMs?: number;
  blockMs?: number;
  lockoutScope?: LockoutScope;
  limits?: Partial<Limits>;
  observer?: ChatObserver;
  movesAtOnce?: boolean;
  /** The monotonic clock at the start. */
  clockMs?: number;
  shards?: Shards;
  /** Tokens are numbered from there on; 1 by default. */
  firstToken?: number;
  /** In memory, without a journal, by default. */
  store?: Store;
}

/** A core without sockets, disk and clock: a test feeds lines, moves the time and reads what each peer received. */
export class World {
  readonly store: Store;
  readonly chat: Chat;
  readonly turn: LoopTurn;
  readonly connections: Connections;
  readonly foreignRequests: Core["foreignRequests"];
  readonly neighbourEvents: Core["neighbourEvents"];
  readonly drain: Core["drain"];
  /** Internal errors that the core reported. */
  readonly faults: unknown[] = [];
  /** Verifies passwords; a test may resolve later, or never. */
  verify: (account: Account, password: Uint8Array) => ReturnType<Passwords["verify"]> = (_account, password) =>
    Buffer.from(password).toString("latin1") === PASSWORD;
  /** Delivers to a callback session; by default nothing is delivered. */
  newCaller: (session: Session) => Caller = () => ({ flush: () => {}, retry: () => {}, giveUp: () => {} });
  /** Makes a turn durable; a test may resolve later, as a disk does with durability `power`. */
  saves: () => boolean | Promise<void> = () => this.store.save();
  clockMs: number;
  readonly #core: Core;
  /** Ends of the turns that have begun. */
  readonly #ends: (() => void)[] = [];
  #ticks = 0;
  #tokens: number;

  /** Every user of these names exists; their password is PASSWORD. */
  constructor(names: readonly string[], choices: Choices = {}) {
    this.#tokens = (choices.firstToken ?? 1) - 1;
    const { clockMs = 1000, store = new Store(openDatabase(":memory:", "none")) } = choices;
    this.store = store;
    this.clockMs = clockMs;
    const core = createCore({
      clock: { nowMs: () => this.clockMs, unixMs: () => UNIX_MS + this.clockMs - clockMs },
      store: this.store,
      users: names.map((name) => ({ name, password: PASSWORD })),
      passwords: { verify: (account, password) => this.verify(account, password), prove: () => NOTHING },
      newToken: () => `token${String(++this.#tokens).padStart(20, "0")}`,
      newCaller: (session) => this.newCaller(session),
      idleTimeoutMs: choices.idleTimeoutMs ?? SILENCE_MS,
      blockMs: choices.blockMs ?? BLOCK_MS,
      lockoutScope: choices.lockoutScope ?? "address",
      limits: { ...LIMITS_DEFAULT, ...choices.limits },
      observer: choices.observer,
      movesAtOnce: choices.movesAtOnce,
      shards: choices.shards,
      commits: () => this.saves(),
      later: (end) => void this.#ends.push(end),
      report: (error) => this.faults.push(error),
    });
    this.#core = core;
    ({ chat: this.chat, turn: this.turn, connections: this.connections, drain: this.drain } = core);
    this.foreignRequests = core.foreignRequests;
    this.neighbourEvents = core.neighbourEvents;
    this.begin();
    this.endTurns();
  }

  account(name: string): Account {
    const account = this.chat.accounts.named(name);
    if (account === undefined) throw new Error(`the test has no user ${name}`);
    return account;
  }

  /** A connection without a session. */
  connect(address = "192.0.2.1", lineBytesMax = LIMITS_DEFAULT.lineBytesMax): TestPeer {
    return new TestPeer(this, address, lineBytesMax);
  }

  /** Plain sessions of these users, whose output so far is consumed. */
  online(...names: string[]): TestPeer[] {
    const peers = names.map((name) => this.login(name));
    this.announce();
    for (const peer of peers) peer.read();
    return peers;
  }

  /** A plain session of that user; the reply is not consumed. */
  login(name: string, address?: string): TestPeer {
    const peer = this.connect(address);
    this.say(peer, `login ${name} ${PASSWORD}`);
    return peer;
  }

  /** Feeds lines from a peer in one turn, and ends it. */
  say(peer: TestPeer, ...lines: string[]): void {
    this.begin();
    peer.feed(Buffer.from(lines.map((line) => `${line}\n`).join(""), "latin1"));
    this.endTurns();
  }

  /** Feeds one line; returns everything that the peer has received. */
  ask(peer: TestPeer, line: string): string[] {
    this.say(peer, line);
    return peer.read();
  }

  /** Sends delayed `joined` and `left` events. */
  announce(): void {
    this.chat.announcements.flush();
    this.endTurns();
  }

  /** Moves the clock, with a tick at each multiple of 64 ms and a sweep at each fourth tick, like a server. */
  pass(ms: number): void {
    const untilMs = this.clockMs + ms;
    for (;;) {
      const tickMs = (Math.floor(this.clockMs / TICK_MS) + 1) * TICK_MS;
      if (tickMs > untilMs) break;
      this.clockMs = tickMs;
      this.tick();
    }
    this.clockMs = untilMs;
  }

  /** Fires the timers that are due at the clock's time. */
  tick(): void {
    this.begin();
    this.chat.wheel.advance(this.#core.clock.nowMs());
    if (++this.#ticks % (PRESENCE_DELAY_MS / TICK_MS) === 0) this.chat.sweep();
    this.endTurns();
  }

  /** Lets promises and `setImmediate` callbacks run, and ends their turns. */
  async later(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    this.endTurns();
  }

  /** Begins a turn: the clocks are read. */
  begin(): void {
    this.turn.begin();
  }

  /** Ends one turn, and not the turn that follows it. */
  endTurn(): void {
    this.#ends.shift()?.();
  }

  /** Ends turns until no turn follows. */
  endTurns(): void {
    for (let end = this.#ends.shift(); end !== undefined; end = this.#ends.shift()) end();
  }
}

/** A test double of a connection. It takes `room` bytes of output at the ends of turns. */
export class TestPeer implements Peer, Sink {
  readonly address: string;
  isEncrypted = false;
  isWebSocket = false;
  isRelayed = false;
  isCallable = true;
  waited = NOT_WAITED;
  session: Session | null = null;
  isClosed = false;
  /** The chat has called `close`: no line is read any longer, and it is closed when all output is taken. */
  closing = false;
  #isPaused = false;
  /** Bytes of output that it still takes; 0 for a peer that does not read. */
  room = Number.POSITIVE_INFINITY;
  readonly #world: World;
  readonly #reader: LineReader;
  readonly #outbox: Outbox;
  #taken = "";

  constructor(world: World, address: string, lineBytesMax: number) {
    this.#world = world;
    this.address = address;
    this.#reader = new LineReader(lineBytesMax);
    this.#outbox = new Outbox(world.turn, true);
    this.#outbox.sink = this;
  }

  get replies(): Outbox {
    return this.session?.outbox ?? this.#outbox;
  }

  /** The incomplete last line. */
  get begun(): string {
    return this.#taken.slice(this.#taken.lastIndexOf("\n") + 1);
  }

  /** The lines since the last call, without LF, as latin1. An incomplete last line is kept. */
  read(): string[] {
    const lines = this.#taken.split("\n");
    this.#taken = lines.pop()!;
    return lines;
  }

  attach(session: Session): void {
    this.session = session;
    session.outbox.sink = this;
  }

  detach(): void {
    this.session = null;
    this.closing = true;
    this.#lost();
  }

  badLines = 0;

  refund(): void {}

  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
    this.#pull();
  }

  close(): void {
    this.closing = true;
    this.replies.markDirty();
  }

  get paused(): boolean {
    return this.#isPaused || this.session?.slots?.isBlocked(this.#reader) === true;
  }

  feed(chunk: Buffer): void {
    this.#reader.feed(chunk);
    this.#pull();
  }

  #pull(): void {
    while (!this.closing && !this.isClosed && !this.paused && this.#reader.next()) {
      receive(this.#world.chat, this, this.#reader);
    }
    if (this.session !== null) this.#world.chat.requestsDone(this.session);
  }

  /** Takes `bytes` of output from now on. */
  take(bytes = Number.POSITIVE_INFINITY): void {
    this.room = bytes;
    this.replies.markDirty();
    this.#world.endTurns();
  }

  flush(): void {
    if (this.isClosed) return;
    this.#write(this.#outbox);
    if (this.session !== null) {
      if (this.#outbox.unsent === 0) this.#write(this.session.outbox);
      this.#world.chat.flushed(this.session);
    }
    if (this.session?.slots != null) this.#pull();
    if (this.closing && this.#outbox.unsent + (this.session?.outbox.unsent ?? 0) === 0) this.#lost();
  }

  #write(stream: Outbox): void {
    while (this.room > 0 && stream.peek())
      stream.advance(this.#take(stream.piece, stream.pieceStart, stream.pieceEnd - stream.pieceStart));
  }

  write(bytes: Buffer, start: number, count: number): number {
    return this.isClosed || this.#outbox.unsent > 0 ? 0 : this.#take(bytes, start, count);
  }

  #take(bytes: Buffer, start: number, count: number): number {
    const taken = Math.min(this.room, count);
    this.#taken += bytes.toString("latin1", start, start + taken);
    this.room -= taken;
    return taken;
  }

  /** Closes the connection; output that was not taken is lost. */
  hangUp(): void {
    this.#lost();
    this.#world.endTurns();
  }

  #lost(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.#world.chat.connectionClosed(this);
  }
}
