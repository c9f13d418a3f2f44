/**
 * The users of another shard who are online there, as this shard knows them from its link. When the link is lost, or
 * the shard gets another owner, they count as online for PRESENCE_GRACE_MS more: most of them come back within seconds,
 * and then nobody receives `left` and `joined`.
 */
import { PRESENCE_GRACE_MS } from "../limits.ts";
import type { LeftReason } from "../protocol/reply.ts";
import { type TimerKind, type TimerWheel, WheelTimer } from "../timer-wheel.ts";
import type { Announcements } from "./announcements.ts";
import type { Presence } from "./presence.ts";
import type { Account } from "./session.ts";

export class NeighbourPresence {
  readonly #presence: Presence;
  readonly #announcements: Announcements;
  readonly #wheel: TimerWheel;
  readonly #online = new Set<Account>();
  /** Those of them whose shard has not said since the link was lost that they are online. */
  readonly #missing = new Set<Account>();
  /** What has come of the shard's list; null when no list is on its way. */
  #list: Set<Account> | null = null;
  /** Armed while some may be missing. */
  readonly #timer = new WheelTimer<NeighbourPresence>(this);
  readonly #graceOver: TimerKind<NeighbourPresence>;

  constructor(presence: Presence, announcements: Announcements, wheel: TimerWheel) {
    this.#presence = presence;
    this.#announcements = announcements;
    this.#wheel = wheel;
    this.#graceOver = wheel.kind(() => {
      for (const account of [...this.#missing]) this.left(account, "disconnected");
    });
  }

  /** A link has begun: the list of the shard's users follows, before any other event. */
  linkUp(): void {
    this.#list = new Set();
  }

  linkLost(): void {
    this.#list = null;
    for (const account of this.#online) this.#missing.add(account);
    this.#wheel.schedule(this.#timer, this.#graceOver, PRESENCE_GRACE_MS);
  }

  /** A part of the list; an empty one is its end. */
  listed(accounts: readonly Account[]): void {
    const list = this.#list;
    if (list === null) return;
    for (const account of accounts) list.add(account);
    if (accounts.length > 0) return;
    this.#list = null;
    for (const account of list) this.joined(account);
    for (const account of this.#online) if (!list.has(account)) this.#missing.add(account);
    this.#wheel.schedule(this.#timer, this.#graceOver, PRESENCE_GRACE_MS);
  }

  joined(account: Account): void {
    this.#missing.delete(account);
    if (this.#online.has(account)) return;
    this.#online.add(account);
    this.#presence.setElsewhere(account, true);
    this.#announcements.relayPresence(account, `joined ${account.name}`);
  }

  left(account: Account, reason: LeftReason): void {
    this.#missing.delete(account);
    if (!this.#online.delete(account)) return;
    this.#presence.setElsewhere(account, false);
    this.#announcements.relayPresence(account, `left ${account.name} ${reason}`);
  }
}
