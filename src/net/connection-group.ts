import type { Chat } from "../chat/chat.ts";
import type { Rates } from "../chat/rates.ts";
import { type Limits, WORK_PER_TURN } from "../limits.ts";
import type { TimerKind, TimerWheel } from "../timer-wheel.ts";
import type { GateShared } from "./read-gate.ts";
import type { SocketEvents } from "./transport.ts";

/** Has input left over from a turn. */
export interface Ready {
  /** It continues in this turn. */
  serve(): void;
}

/** What it does with a connection. */
interface Member extends Ready {
  limitsChanged(): void;
  idleTimedOut(): void;
  hangUp(): void;
  readOn(): void;
  writeTimedOut(): void;
}

/** What all connections of a server share. */
export class ConnectionGroup<Connection extends Member> implements GateShared<Connection> {
  readonly chat: Chat;
  readonly wheel: TimerWheel;
  readonly limits: Limits;
  readonly rates: Rates;
  readonly open = new Set<Connection>();
  /** Connections without a session, and sockets that are not connections yet; the oldest first. */
  readonly unauthenticated = new Set<SocketEvents>();
  /** Connections and links with input left over from a turn, in the order in which they continue. */
  readonly ready = new Set<Ready>();
  /** Without a session: no request for too long. */
  readonly idle: TimerKind<Connection>;
  /** Draining: the peer does not close its side. */
  readonly linger: TimerKind<Connection>;
  /** Above the rate limit: the next request is allowed. */
  readonly later: TimerKind<Connection>;
  /** With unsent output: the socket accepted nothing for too long. */
  readonly stalled: TimerKind<Connection>;

  constructor(chat: Chat) {
    this.chat = chat;
    this.wheel = chat.wheel;
    this.limits = chat.limits;
    this.rates = chat.rates;
    this.idle = chat.wheel.kind((connection) => connection.idleTimedOut());
    this.linger = chat.wheel.kind((connection) => connection.hangUp());
    this.later = chat.wheel.kind((connection) => connection.readOn());
    this.stalled = chat.wheel.kind((connection) => connection.writeTimedOut());
  }

  get isCongested(): boolean {
    return this.chat.store.isCongested;
  }

  /** Limits have changed, in place. */
  limitsChanged(): void {
    for (const account of this.chat.accounts.all) this.rates.rateChanged(account);
    for (const connection of this.open) connection.limitsChanged();
  }

  /**
   * A turn begins: ready connections continue, up to WORK_PER_TURN. While some remain, another turn must follow: when
   * all wait for a commit, the one after it.
   */
  serveReady(): void {
    const workMax = this.rates.work + WORK_PER_TURN;
    for (const connection of this.ready) {
      if (this.rates.work >= workMax || this.isCongested) break;
      this.ready.delete(connection);
      connection.serve();
    }
  }
}
