import { LOCKOUTS_MAX, LOGINS_WAITING_MAX, WRONG_PASSWORDS_MAX } from "../limits.ts";
import { WheelTimer, type TimerKind, type TimerWheel } from "../timer-wheel.ts";
import { secondsIn, source } from "./addresses.ts";

/** What three wrong passwords lock out: the user from that address, or the user from all addresses. */
export type LockoutScope = "address" | "user";

/** A count of wrong passwords, as the store keeps it across restarts. */
export interface WrongPasswords {
  user: string;
  /** The source address; empty when the count applies to all addresses. */
  source: string;
  /** 0: the store may forget the record. */
  count: number;
}

/** The attempts of one user from one address. */
export class LoginRecord implements WrongPasswords {
  readonly key: string;
  readonly user: string;
  readonly source: string;
  count = 0;
  /** Wheel time at which the count is reset and a lockout ends. */
  untilMs = 0;
  /** An attempt is being verified; the others are in `waiting`. */
  isVerifying = false;
  waiting: (() => void)[] = [];
  readonly timer = new WheelTimer<LoginRecord>(this);

  constructor(key: string, user: string, source: string) {
    this.key = key;
    this.user = user;
    this.source = source;
  }
}

/**
 * Wrong passwords by user and source address. The third one locks the user out from that address for `blockMs`; logins
 * from other addresses are not affected, unless the scope is the user. Attempts of one user from one address are
 * verified one after another, so that parallel attempts gain nothing. It verifies no passwords itself.
 */
export class Lockouts {
  /** By user and source, the next one to expire first. */
  readonly #records = new Map<string, LoginRecord>();
  /** Duration of a lockout that begins from now on. */
  blockMs: number;
  readonly #wheel: TimerWheel;
  readonly #scope: LockoutScope;
  readonly #changed: (wrong: WrongPasswords, leftMs: number) => void;
  readonly #expiry: TimerKind<LoginRecord>;

  /** `changed` is called with each new count and the time until it expires. */
  constructor(
    wheel: TimerWheel,
    blockMs: number,
    scope: LockoutScope,
    changed: (wrong: WrongPasswords, leftMs: number) => void,
  ) {
    this.#wheel = wheel;
    this.blockMs = blockMs;
    this.#scope = scope;
    this.#changed = changed;
    this.#expiry = wheel.kind((record) => this.#expire(record));
  }

  /** Calls `attempt` at its turn, which ends with `leave`; false when too many attempts wait already. */
  enter(user: string, address: string, attempt: (record: LoginRecord) => void): boolean {
    const record = this.#record(user, this.#scope === "user" ? "" : source(address));
    if (record.isVerifying) {
      if (record.waiting.length >= LOGINS_WAITING_MAX) return false;
      record.waiting.push(() => attempt(record));
      return true;
    }
    record.isVerifying = true;
    attempt(record);
    return true;
  }

  /** The attempt is over: the next one begins within this call. */
  leave(record: LoginRecord): void {
    const next = record.waiting.shift();
    if (next !== undefined) return next();
    record.isVerifying = false;
    if (record.count === 0) this.#records.delete(record.key);
  }

  /** Seconds until the lockout ends, rounded up; 0 when there is no lockout. */
  secondsLeft(record: LoginRecord): number {
    return record.count < WRONG_PASSWORDS_MAX ? 0 : secondsIn(record.untilMs - this.#wheel.nowMs);
  }

  /** Counts a wrong password. Returns the number of tries left; 0: the user is locked out from now on. */
  wrong(record: LoginRecord): number {
    this.#set(record, this.#wheel.nowMs >= record.untilMs ? 1 : record.count + 1, this.blockMs);
    this.#changed(record, this.blockMs);
    this.#limit();
    return WRONG_PASSWORDS_MAX - record.count;
  }

  /** A right password resets the count. */
  right(record: LoginRecord): void {
    this.#clear(record);
  }

  /** The wrong passwords of a user from all addresses. */
  of(user: string): LoginRecord[] {
    const found: LoginRecord[] = [];
    for (const record of this.#records.values()) if (record.user === user && record.count > 0) found.push(record);
    return found;
  }

  /** Resets a count. */
  forget(record: LoginRecord): void {
    this.#expire(record);
  }

  /** Takes a count of an earlier run; false when it has expired or belongs to the other scope. */
  restore({ user, source, count }: WrongPasswords, leftMs: number): boolean {
    if (leftMs <= 0 || (source === "") !== (this.#scope === "user")) return false;
    // A wall clock that stepped back must not make the lockout longer.
    this.#set(this.#record(user, source), count, Math.min(leftMs, this.blockMs));
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

  /** Bounds the memory: an attacker may guess from many addresses. */
  #limit(): void {
    if (this.#records.size <= LOCKOUTS_MAX) return;
    for (const record of this.#records.values()) {
      if (record.isVerifying) continue;
      return this.#expire(record);
    }
  }

  /** The block time has passed without a wrong password. */
  #expire(record: LoginRecord): void {
    this.#clear(record);
    if (!record.isVerifying) this.#records.delete(record.key);
  }

  #clear(record: LoginRecord): void {
    if (record.count === 0) return;
    this.#wheel.cancel(record.timer);
    record.count = record.untilMs = 0;
    this.#changed(record, 0);
  }
}
