/**
 * Composition of a server's core: timer wheel, turn, chat, connections and callback calls, with the users and what the
 * store kept of them. The server, the simulation, the tests and the micro benchmark are all built here; each brings its
 * own clock, store and sockets. Listening, logging and periodic work are not part of it.
 */
import type { User } from "../auth/credentials.ts";
import { Chat } from "../chat/chat.ts";
import type { ChatOptions } from "../chat/chat-options.ts";
import { Drain } from "../chat/drain.ts";
import { ForeignRequests } from "../chat/foreign-requests.ts";
import { NeighbourEvents } from "../chat/neighbour-events.ts";
import { Callback, Callbacks } from "../net/callback.ts";
import { Histogram } from "../histogram.ts";
import { Connection, Connections } from "../net/connection.ts";
import type { dial as dialSocket } from "../net/dial.ts";
import { atOnce } from "../runtime/slices.ts";
import type { Store } from "../storage/store.ts";
import { LoopTurn, type TurnHooks } from "../stream/turn.ts";
import { TimerWheel } from "../timer-wheel.ts";

/** The two clocks that a server reads, once at the beginning of each turn. */
export interface Clock {
  /** Monotonic, for deadlines. */
  nowMs(): number;
  /** The wall clock, for times that are stored or shown. Never 0, which stands for "no time" in a message. */
  unixMs(): number;
}

/** The chat's options, and those that differ between a server, a simulation and a test. */
export interface CoreOptions extends Omit<ChatOptions, "wheel" | "turn" | "store" | "newCaller"> {
  clock: Clock;
  store: Store;
  /** Null: `loading` follows, in slices. */
  users: readonly User[] | null;
  /** Makes the turn durable; `store.save()` by default. See `TurnHooks`. */
  commits?: TurnHooks["commits"];
  /** Schedules the end of the turn; `setImmediate` by default. */
  later?: TurnHooks["later"];
  /** Opens the connections to the clients of callback sessions. */
  dial?: typeof dialSocket;
  /** Replaces `Callback`, so that a test needs no connection to deliver to a callback session. */
  newCaller?: ChatOptions["newCaller"];
  /** False: no turn follows another only to move messages to and from mailboxes; they wait for the next event. */
  movesAtOnce?: boolean;
}

export interface Core {
  /** Its monotonic time leaves out the time in which the store is slow. */
  readonly clock: Clock;
  readonly turn: LoopTurn;
  readonly chat: Chat;
  readonly connections: Connections;
  readonly callbacks: Callbacks;
  /** Acts on what other shards forward. */
  readonly foreignRequests: ForeignRequests;
  /** What else happens at other shards; null without a cluster. */
  readonly neighbourEvents: NeighbourEvents | null;
  /** Durations of turns. */
  readonly turnSeconds: Histogram;
  /** Fires every due timer. An error in one of them is reported, and closes the connection that owns the timer. */
  fireTimers(): void;
  /** Begins a drain of `durationMs`, then calls `done`; see `Drain`. */
  drain(durationMs: number, done: () => void): void;
}

export function createCore(options: CoreOptions): Core {
  const { clock: realClock, store, users, commits, later, dial, movesAtOnce = true, ...chatOptions } = options;
  const { report } = options;
  const clock = withoutStalls(realClock, store);
  const fail = (error: unknown, owner: unknown): void => {
    if (!(owner instanceof Connection)) return report(error);
    report(error, owner);
    owner.hangUp();
  };
  const turnSeconds = new Histogram();
  let beganMs = 0;
  let drain: Drain | null = null;
  const turn = new LoopTurn({
    begins: () => {
      beganMs = clock.nowMs();
      chat.wheel.begin(beganMs);
      chat.unixMs = clock.unixMs();
      connections.serveReady();
    },
    ends: () => {
      const isEnding = drain !== null && drain.step();
      const hasMoves = chat.turnEnds();
      return isEnding || (hasMoves && movesAtOnce) || connections.ready.size > 0;
    },
    commits: commits ?? (() => store.save()),
    ended: () => turnSeconds.add((clock.nowMs() - beganMs) / 1000),
    failed: fail,
    later,
  });
  const chat: Chat = new Chat({
    newCaller: (session, address, port, secret) => new Callback(callbacks, session, address, port, secret),
    ...chatOptions,
    wheel: new TimerWheel(clock.nowMs()),
    turn,
    store,
  });
  const callbacks = new Callbacks(chat, () => turn.begin(), dial);
  const connections = new Connections(chat);
  if (users !== null) atOnce(loading(chat, store, users, clock.unixMs()));
  const fireTimers = (): void => {
    const nowMs = clock.nowMs();
    for (;;) {
      try {
        return chat.wheel.advance(nowMs);
      } catch (error) {
        fail(error, chat.wheel.firing); // That timer is disarmed; the other due timers fire in the next round.
      }
    }
  };
  const beginDrain = (durationMs: number, done: () => void): void => void (drain = new Drain(chat, durationMs, done));
  const foreignRequests = new ForeignRequests(chat);
  const neighbourEvents = chat.neighbours === null ? null : new NeighbourEvents(chat, chat.neighbours);
  const parts = { clock, turn, chat, connections, callbacks, foreignRequests, neighbourEvents, turnSeconds };
  return { ...parts, fireTimers, drain: beginDrain };
}

/**
 * A clock that stands still while the store is slow: no request is read then and no reply leaves, so no client is idle,
 * and no timer may count that time. Afterwards it continues where it stopped.
 */
function withoutStalls(clock: Clock, store: Store): Clock {
  let readMs = clock.nowMs();
  let stalledMs = 0;
  return {
    nowMs: () => {
      const nowMs = clock.nowMs();
      if (store.isSlow) stalledMs += nowMs - readMs;
      readMs = nowMs;
      return nowMs - stalledMs;
    },
    unixMs: () => clock.unixMs(),
  };
}

/**
 * Users, and what the store kept: blocks, bans, the size of each mailbox, and lockouts that are not over. In steps:
 * there may be a million users, and an owner of a cluster must give signs of life meanwhile.
 */
export function* loading(
  { accounts, lockouts }: Chat,
  store: Store,
  users: readonly User[],
  unixMs: number,
): Generator<void, void> {
  for (const { name, password } of users) {
    accounts.add(name, password);
    yield;
  }
  for (const { user, other } of store.blocks()) accounts.recall(user).block(accounts.recall(other));
  for (const { user, untilUnixMs } of store.bans()) accounts.recall(user).bannedUntilMs = untilUnixMs;
  for (const { user, from, messages, bytes } of store.waiting()) {
    accounts.recall(user).countWaiting(from, messages, bytes);
    yield;
  }
  for (const { untilUnixMs, ...wrong } of store.lockouts()) {
    if (lockouts.restore(wrong, untilUnixMs - unixMs)) continue;
    store.wrongPasswords({ ...wrong, count: 0 }, 0);
  }
}
