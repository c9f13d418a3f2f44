import { LOCKOUTS_MAX, LOGINS_WAITING_MAX, WRONG_PASSWORDS_MAX } from "../limits.ts";
import { WheelTimer, type TimerKind, type TimerWheel } from "../timer-wheel.ts";
import { secondsIn, source } from "./addresses.ts";

/** Whom three wrong passwords lock out: the user from that address, or the user from everywhere. */
export type LockoutScope = "address" | "user";

/** Wrong passwords that outlive a restart. */
export interface WrongPasswords {
  user: string;
  /** Where they came from; empty when they count from everywhere. */
  source: string;
  /** 0 when they are forgotten. */
  count: number;
}

/** What is known of one user's attempts from one address. */
export class LoginRecord implements WrongPasswords {
  readonly key: string;
  readonly user: string;
  readonly source: string;
  count = 0;
  /** Wheel time at which the wrong ones are forgotten, and a lockout ends. */
  untilMs = 0;
  /** An attempt is being judged; the others wait their turn. */
  judging = false;
  waiting: (() => void)[] = [];
  readonly timer = new WheelTimer<LoginRecord>(this);

  constructor(key: string, user: string, source: string) {
    this.key = key;
    this.user = user;
    this.source = source;
  }
}

/**
 * Wrong passwords by user and source address: the third one locks that user out from there for `blockMs`. Nobody can
 * lock out somebody who logs in from elsewhere, unless the scope is the user. Attempts of one user from one address are
 * judged one after another, so that parallel ones win nothing.
 */
export class Lockouts {
  /** Those that will be forgotten first come first. */
  readonly #records = new Map<string, LoginRecord>();
  readonly #wheel: TimerWheel;
  readonly #blockMs: number;
  readonly #scope: LockoutScope;
  readonly #changed: (wrong: WrongPasswords, leftMs: number) => void;
  readonly #expiry: TimerKind<LoginRecord>;

  /** `changed` hears how many wrong passwords there are, and for how long. */
  constructor(
    wheel: TimerWheel,
    blockMs: number,
    scope: LockoutScope,
    changed: (wrong: WrongPasswords, leftMs: number) => void,
  ) {
    this.#wheel = wheel;
    this.#blockMs = blockMs;
    this.#scope = scope;
    this.#changed = changed;
    this.#expiry = wheel.kind((record) => this.#expire(record));
  }

  /** Calls `judge` when it is this attempt's turn, which ends with `leave`; false when too many wait already. */
  enter(user: string, address: string, judge: (record: LoginRecord) => void): boolean {
    const record = this.#record(user, this.#scope === "user" ? "" : source(address));
    if (record.judging) {
      if (record.waiting.length >= LOGINS_WAITING_MAX) return false;
      record.waiting.push(() => judge(record));
      return true;
    }
    record.judging = true;
    judge(record);
    return true;
  }

  leave(record: LoginRecord): void {
    const next = record.waiting.shift();
    if (next !== undefined) return next();
    record.judging = false;
    if (record.count === 0) this.#records.delete(record.key);
  }

  /** Seconds for which every login is refused, rounded up; 0 when none is. */
  secondsLeft(record: LoginRecord): number {
    return record.count < WRONG_PASSWORDS_MAX ? 0 : secondsIn(record.untilMs - this.#wheel.nowMs);
  }

  /** A wrong password: how many more there may be; 0 means that it is locked from now on. */
  wrong(record: LoginRecord): number {
    this.#set(record, this.#wheel.nowMs >= record.untilMs ? 1 : record.count + 1, this.#blockMs);
    this.#changed(record, this.#blockMs);
    this.#limit();
    return WRONG_PASSWORDS_MAX - record.count;
  }

  right(record: LoginRecord): void {
    this.#clear(record);
  }

  /** What an earlier run knew; false when it does not count any more. */
  restore({ user, source, count }: WrongPasswords, leftMs: number): boolean {
    if (leftMs <= 0 || (source === "") !== (this.#scope === "user")) return false;
    // The wall clock may have stepped back meanwhile, which must not lock anybody out for longer.
    this.#set(this.#record(user, source), count, Math.min(leftMs, this.#blockMs));
    return true;
  }

  /** The wall clock was set: reports the remaining time of each lockout, to be stored as a time of the new clock. */
  clockWasSet(): void {
    for (const record of this.#records.values()) {
      const leftMs = record.untilMs - this.#wheel.nowMs;
      if (record.count > 0 && leftMs > 0) this.#changed(record, leftMs);
    }
  }

  #record(user: string, source: string): LoginRecord {
    const key = `${user} ${source}`;
    let record = this.#records.get(key);
    if (record === undefined) this.#records.set(key, (record = new LoginRecord(key, user, source)));
    return record;
  }

  #set(record: LoginRecord, count: number, leftMs: number): void {
    record.count = count;
    record.untilMs = this.#wheel.nowMs + leftMs;
    this.#wheel.schedule(record.timer, this.#expiry, leftMs);
    this.#records.delete(record.key);
    this.#records.set(record.key, record);
  }

  /** Whoever guesses from many addresses fills no memory with it. */
  #limit(): void {
    if (this.#records.size <= LOCKOUTS_MAX) return;
    for (const record of this.#records.values()) {
      if (record.judging) continue;
      return this.#expire(record);
    }
  }

  /** The block time went by without a wrong password. */
  #expire(record: LoginRecord): void {
    this.#clear(record);
    if (!record.judging) this.#records.delete(record.key);
  }

  #clear(record: LoginRecord): void {
    if (record.count === 0) return;
    this.#wheel.cancel(record.timer);
    record.count = record.untilMs = 0;
    this.#changed(record, 0);
  }
}
