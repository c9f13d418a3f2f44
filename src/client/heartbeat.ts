import { REPLY_TIMEOUT_MS } from "./retry.ts";

const BEAT_MS = 30_000;
const TICK_MS = 1_000;
/** Deadline for the reply to a beat. With up to two ticks of delay a dead server is noticed within REPLY_TIMEOUT_MS. */
const BEAT_REPLY_MS = REPLY_TIMEOUT_MS - 2 * TICK_MS;
/** A tick that is later than this follows a suspend of the machine. */
const SUSPEND_MS = 5_000;

/** The session that a heartbeat belongs to. */
export interface HeartbeatSession {
  /** "disconnected": beats cannot be sent; "paused": replies to them are not read now; "reading": both work. */
  state(): "disconnected" | "paused" | "reading";
  /** Whether something must be acknowledged now. */
  isDue(nowMs: number): boolean;
  /** Sends a beat. Resolves with its reply, or rejects when there will be none. */
  beat(): Promise<unknown>;
  /** The reply to a beat is overdue. */
  overdue(): void;
}

/**
 * Sends the beats of a session in time, and notices a dead server by overdue replies. During a suspend of the machine
 * the monotonic clock may stand still while the wall clock continues, so ticks compare both; after a suspend a beat
 * tests the connection at once. A wall clock that is set forward looks the same and costs one extra beat.
 */
export class Heartbeat {
  readonly #session: HeartbeatSession;
  #ticker: ReturnType<typeof setInterval> | null = null;
  #tickMs = TICK_MS;
  #beatMs = BEAT_MS;
  /** Time of the last line that was sent. */
  #lastSentMs = 0;
  /** Time of the oldest beat without a reply; 0 when all have one. */
  #beatSentMs = 0;
  /** Both clocks at the last tick. */
  #monotonicMs = 0;
  #wallMs = 0;

  constructor(session: HeartbeatSession) {
    this.#session = session;
  }

  /** Starts for a session that ends after `silenceMs` without a line. */
  start(silenceMs: number): void {
    this.stop();
    this.#beatMs = Math.min(BEAT_MS, Math.max(silenceMs - 5_000, silenceMs * 0.6));
    this.#tickMs = Math.min(TICK_MS, this.#beatMs / 2);
    this.restart();
    this.#wasSuspended();
    this.#ticker = setInterval(() => this.tick(), this.#tickMs);
  }

  stop(): void {
    if (this.#ticker !== null) clearInterval(this.#ticker);
    this.#ticker = null;
  }

  /** A line was sent, which counts as a beat. */
  sent(): void {
    this.#lastSentMs = performance.now();
  }

  /** There is a new connection: replies to earlier beats will not arrive. */
  restart(): void {
    this.sent();
    this.#beatSentMs = 0;
  }

  /**
   * The deadline of a beat's reply starts again: a line has arrived, so the server is alive and the reply waits for
   * those to earlier requests; or reading was resumed.
   */
  restartDeadline(): void {
    if (this.#beatSentMs > 0) this.#beatSentMs = performance.now();
  }

  beat(): void {
    this.sent();
    if (this.#beatSentMs === 0) this.#beatSentMs = performance.now();
    const replied = (): number => (this.#beatSentMs = 0);
    this.#session.beat().then(replied, replied);
  }

  /** Whether the machine was suspended since the last call. */
  #wasSuspended(): boolean {
    const [monotonicMs, wallMs] = [performance.now(), Date.now()];
    const passedMs = Math.max(monotonicMs - this.#monotonicMs, wallMs - this.#wallMs);
    this.#monotonicMs = monotonicMs;
    this.#wallMs = wallMs;
    return passedMs > this.#tickMs + SUSPEND_MS;
  }

  /** Looks whether a beat is due, or a reply overdue. Does nothing before `start` and after `stop`. */
  tick(): void {
    if (this.#ticker === null) return;
    const wasSuspended = this.#wasSuspended();
    const state = this.#session.state();
    if (state === "disconnected") return;
    const nowMs = performance.now();
    if (wasSuspended) this.restartDeadline();
    if (state === "reading" && this.#beatSentMs > 0) {
      if (nowMs - this.#beatSentMs >= Math.min(BEAT_REPLY_MS, this.#beatMs)) this.#session.overdue();
    } else if (wasSuspended || nowMs - this.#lastSentMs >= this.#beatMs - this.#tickMs || this.#session.isDue(nowMs)) {
      this.beat();
    }
  }
}
