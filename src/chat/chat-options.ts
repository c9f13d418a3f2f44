import type { LockoutScope } from "../auth/lockouts.ts";
import type { Limits } from "../limits.ts";
import type { Turn } from "../stream/turn.ts";
import type { TimerWheel } from "../timer-wheel.ts";
import type { Passwords } from "./accounts.ts";
import type { Shards } from "./neighbours.ts";
import type { ChatObserver } from "./observer.ts";
import type { Caller, Peer, Session } from "./session.ts";
import type { ChatStore } from "./store.ts";

/** What the chat is made of, and what the operator has chosen. */
export interface ChatOptions {
  wheel: TimerWheel;
  turn: Turn;
  store: ChatStore;
  passwords: Passwords;
  newToken: () => string;
  /** Calls the client of a callback session, at the address of its login. */
  newCaller: (session: Session, address: string, port: number, secret: string) => Caller;
  /** A session, or a connection without a session, ends when no line arrives for that long. */
  idleTimeoutMs: number;
  blockMs: number;
  lockoutScope: LockoutScope;
  limits: Limits;
  /** Takes faults, with the peer whose line caused them. */
  report: (error: unknown, peer?: Peer) => void;
  observer?: ChatObserver;
  /** Which shard of a cluster this is; null for all users, without a cluster. */
  shards?: Shards | null;
  /** See `MailboxScheduler`. */
  movedBytesPerTurn?: number;
}
