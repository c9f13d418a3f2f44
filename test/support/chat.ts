import type { Passwords } from "../../src/chat/accounts.ts";
import type { Chat } from "../../src/chat/chat.ts";
import { receive } from "../../src/chat/commands.ts";
import type { LockoutScope } from "../../src/auth/lockouts.ts";
import type { Account, Caller, Peer, Session } from "../../src/chat/session.ts";
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
/** What the hand-moved clock calls the beginning of time, as Unix time. */
export const UNIX_MS = 1_700_000_000_000;

interface Choices {
  idleTimeoutMs?: number;
  blockMs?: number;
  lockoutScope?: LockoutScope;
  limits?: Partial<Limits>;
  /** The monotonic clock at the start; not at a tick's border unless it happens to be. */
  clockMs?: number;
}

/** A chat without sockets, disk or clock: a test says lines, moves the time and reads what everybody got. */
export class World {
  readonly store = new Store(openDatabase(":memory:", "none"));
  readonly core: Core;
  readonly chat: Chat;
  readonly turn: LoopTurn;
  readonly connections: Connections;
  /** Faults that the chat reported. */
  readonly faults: unknown[] = [];
  /** Judges passwords; a test may answer later, or never. */
  verify: (account: Account, password: Uint8Array) => ReturnType<Passwords["verify"]> = (_account, password) =>
    Buffer.from(password).toString("latin1") === PASSWORD;
  /** Calls the client of a callback session; a test says what comes of it. */
  newCaller: (session: Session) => Caller = () => ({ flush: () => {}, retry: () => {}, giveUp: () => {} });
  /** Makes what was said safe; a test may take its time, as a disk does with durability `power`. */
  saves: () => boolean | Promise<void> = () => this.store.save();
  clockMs: number;
  /** Turns that have begun. */
  readonly #ends: (() => void)[] = [];
  #ticks = 0;
  #tokens = 0;

  /** Every user of these names exists; their password is PASSWORD. */
  constructor(names: readonly string[], choices: Choices = {}) {
    const { clockMs = 1000 } = choices;
    this.clockMs = clockMs;
    this.core = createCore({
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
      commits: () => this.saves(),
      later: (end) => void this.#ends.push(end),
      report: (error) => this.faults.push(error),
    });
    ({ chat: this.chat, turn: this.turn, connections: this.connections } = this.core);
    this.begin();
    this.endTurns();
  }

  account(name: string): Account {
    const account = this.chat.accounts.named(name);
    if (account === undefined) throw new Error(`the test has no user ${name}`);
    return account;
  }

  /** Somebody connects and says nothing yet. */
  connect(address = "192.0.2.1", lineBytesMax = LIMITS_DEFAULT.lineBytesMax): TestPeer {
    return new TestPeer(this, address, lineBytesMax);
  }

  /** These users log in, one after another, and have read everything that came with it. */
  online(...names: string[]): TestPeer[] {
    const peers = names.map((name) => this.login(name));
    this.announce();
    for (const peer of peers) peer.read();
    return peers;
  }

  /** A user logs in; the peer has not read its reply yet. */
  login(name: string, address?: string): TestPeer {
    const peer = this.connect(address);
    this.say(peer, `login ${name} ${PASSWORD}`);
    return peer;
  }

  /** Lines from a peer, all in one turn, which ends. */
  say(peer: TestPeer, ...lines: string[]): void {
    this.begin();
    peer.feed(Buffer.from(lines.map((line) => `${line}\n`).join(""), "latin1"));
    this.endTurns();
  }

  /** A peer says one line and reads everything that it got by then. */
  ask(peer: TestPeer, line: string): string[] {
    this.say(peer, line);
    return peer.read();
  }

  /** Presence that waits is sent now. */
  announce(): void {
    this.chat.announceNow();
    this.endTurns();
  }

  /** Time passes as it does for a server: a tick at each multiple of 64 ms, presence with each fourth. */
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

  /** The wheel turns up to where the clock is. */
  tick(): void {
    this.begin();
    this.chat.wheel.advance(this.clockMs);
    if (++this.#ticks % (PRESENCE_DELAY_MS / TICK_MS) === 0) this.chat.sweep();
    this.endTurns();
  }

  /** What was promised for later has happened, and its turn has ended. */
  async later(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    this.endTurns();
  }

  /** A turn begins: the clocks are read. */
  begin(): void {
    this.turn.begin();
  }

  /** The turn ends; what follows by itself does not happen yet. */
  endTurn(): void {
    this.#ends.shift()?.();
  }

  /** Turns end until there is nothing more to write. */
  endTurns(): void {
    for (let end = this.#ends.shift(); end !== undefined; end = this.#ends.shift()) end();
  }
}

/** A connection's double. What the chat appends is taken as far as `room` goes, at the end of the turn. */
export class TestPeer implements Peer, Sink {
  readonly address: string;
  isEncrypted = false;
  session: Session | null = null;
  isClosed = false;
  /** The chat closes it: it takes no further line, and is gone when it has taken everything. */
  closing = false;
  paused = false;
  /** Bytes that it will still take; a peer that stops reading has 0. */
  room = Number.POSITIVE_INFINITY;
  readonly #world: World;
  readonly #reader: LineReader;
  readonly #own: Outbox;
  #taken = "";

  constructor(world: World, address: string, lineBytesMax: number) {
    this.#world = world;
    this.address = address;
    this.#reader = new LineReader(lineBytesMax);
    this.#own = new Outbox(world.turn, true);
    this.#own.sink = this;
  }

  get replies(): Outbox {
    return this.session?.outbox ?? this.#own;
  }

  /** The beginning of a line that came last. */
  get begun(): string {
    return this.#taken.slice(this.#taken.lastIndexOf("\n") + 1);
  }

  /** The lines since the last time, without their ends; bytes as latin1. The beginning of a line stays. */
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
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.#pull();
  }

  close(): void {
    this.closing = true;
    this.replies.markDirty();
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

  /** It reads again: so many bytes, or whatever comes. */
  take(bytes = Number.POSITIVE_INFINITY): void {
    this.room = bytes;
    this.replies.markDirty();
    this.#world.endTurns();
  }

  flush(): void {
    if (this.isClosed) return;
    this.#write(this.#own);
    if (this.session !== null) {
      if (this.#own.unsent === 0) this.#write(this.session.outbox);
      this.#world.chat.flushed(this.session);
    }
    if (this.closing && this.#own.unsent + (this.session?.outbox.unsent ?? 0) === 0) this.#lost();
  }

  #write(stream: Outbox): void {
    while (this.room > 0 && stream.peek())
      stream.advance(this.#take(stream.piece, stream.pieceStart, stream.pieceEnd - stream.pieceStart));
  }

  write(bytes: Buffer, start: number, count: number): number {
    return this.isClosed || this.#own.unsent > 0 ? 0 : this.#take(bytes, start, count);
  }

  #take(bytes: Buffer, start: number, count: number): number {
    const taken = Math.min(this.room, count);
    this.#taken += bytes.toString("latin1", start, start + taken);
    this.room -= taken;
    return taken;
  }

  /** Its connection is gone, and with it what it had not taken. */
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
