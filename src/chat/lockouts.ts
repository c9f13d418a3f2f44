import { LOGINS_WAITING_MAX, WRONG_PASSWORDS_MAX } from "../limits.ts";
import type { TimerHandle, TimerKind, TimerWheel } from "../timer-wheel.ts";
import type { Account } from "./session.ts";

/** What is known of one user's attempts from one address. */
export class LoginRecord {
  readonly key: string;
  wrong = 0;
  /** Wheel time at which the wrong ones are forgotten, and a lockout ends. */
  untilMs = 0;
  /** An attempt is being judged; the others wait their turn. */
  judging = false;
  waiting: (() => void)[] = [];
  timer: TimerHandle = 0;

  constructor(key: string) {
    this.key = key;
  }
}

/**
 * Wrong passwords by user and source address: the third one locks that user out from there for `blockMs`. Nobody can
 * lock out somebody who logs in from elsewhere. Attempts of one user from one address are judged one after another, so
 * that parallel ones win nothing.
 */
export class Lockouts {
  readonly #records = new Map<string, LoginRecord>();
  readonly #wheel: TimerWheel;
  readonly #blockMs: number;
  readonly #expiry: TimerKind<LoginRecord>;

  constructor(wheel: TimerWheel, blockMs: number) {
    this.#wheel = wheel;
    this.#blockMs = blockMs;
    this.#expiry = wheel.kind((record) => this.#expire(record));
  }

  /** Calls `judge` when it is this attempt's turn, which ends with `leave`; false when too many wait already. */
  enter(account: Account, address: string, judge: (record: LoginRecord) => void): boolean {
    const key = `${account.name} ${source(address)}`;
    let record = this.#records.get(key);
    if (record === undefined) this.#records.set(key, (record = new LoginRecord(key)));
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
    if (record.wrong === 0) this.#records.delete(record.key);
  }

  /** Seconds for which every login is refused, rounded up; 0 when none is. */
  secondsLeft(record: LoginRecord): number {
    if (record.wrong < WRONG_PASSWORDS_MAX) return 0;
    // Whole milliseconds, or 60 seconds could come out a little longer and be told as 61.
    return Math.max(0, Math.ceil(Math.round(record.untilMs - this.#wheel.nowMs) / 1000));
  }

  /** A wrong password: how many more there may be; 0 means that it is locked from now on. */
  wrong(record: LoginRecord): number {
    if (this.#wheel.nowMs >= record.untilMs) this.#clear(record);
    record.wrong++;
    record.untilMs = this.#wheel.nowMs + this.#blockMs;
    this.#wheel.cancel(record.timer);
    record.timer = this.#wheel.schedule(this.#expiry, record, this.#blockMs);
    return WRONG_PASSWORDS_MAX - record.wrong;
  }

  right(record: LoginRecord): void {
    this.#clear(record);
  }

  /** The block time went by without a wrong password. */
  #expire(record: LoginRecord): void {
    this.#clear(record);
    if (!record.judging) this.#records.delete(record.key);
  }

  #clear(record: LoginRecord): void {
    this.#wheel.cancel(record.timer);
    record.timer = record.wrong = record.untilMs = 0;
  }
}

/** The address that counts: IPv4 as it is; of IPv6 the first 64 bits, since one household has all the rest. */
export function source(address: string): string {
  if (address.includes(".")) return address.slice(address.lastIndexOf(":") + 1);
  const [head = "", tail] = address.split("%")[0]!.split("::");
  const groups = head === "" ? [] : head.split(":");
  if (tail !== undefined) {
    const behind = tail === "" ? [] : tail.split(":");
    while (groups.length + behind.length < 8) groups.push("0");
    groups.push(...behind);
  }
  return groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(":");
}
