import { REPLY_TIMEOUT_MS } from "./retry.ts";

const BEAT_MS = 30_000;
const TICK_MS = 1_000;
/** Deadline for the answer to a beat. With up to two ticks of delay a dead server is noticed within ANSWER_MS. */
const BEAT_ANSWER_MS = REPLY_TIMEOUT_MS - 2 * TICK_MS;
/** A tick that is later than this follows a suspend of the machine. */
const SLEPT_MS = 5_000;

/** The session as its heartbeat sees it. */
export interface Pulse {
  /** "away": no connection; "unread": beats are sent, answers are not read now; "read": both work. */
  state(): "away" | "unread" | "read";
  /** Whether something must be acknowledged now. */
  isDue(nowMs: number): boolean;
  /** Sends a beat. Resolves with its answer, or rejects when there will be none. */
  beat(): Promise<unknown>;
  /** The answer to a beat is overdue. */
  late(): void;
}

/**
 * Sends the beats of a session in time, and notices a dead server by overdue answers. During a suspend of the machine
 * the monotonic clock may stand still while the wall clock goes on, so ticks compare both; after a suspend a beat tests
 * the connection at once. A wall clock that is set forward looks the same and costs one extra beat.
 */
export class Heartbeat {
  readonly #pulse: Pulse;
  #ticker: Timer | null = null;
  #tickMs = TICK_MS;
  #beatMs = BEAT_MS;
  /** Time of the last line that was sent. */
  #saidMs = 0;
  /** Time of the oldest beat without an answer; 0 when all are answered. */
  #beatSentMs = 0;
  /** Both clocks at the last tick. */
  #monotonicMs = 0;
  #wallMs = 0;

  constructor(pulse: Pulse) {
    this.#pulse = pulse;
  }

  /** Starts for a session that ends after `silenceMs` without a line. */
  start(silenceMs: number): void {
    this.stop();
    this.#beatMs = Math.min(BEAT_MS, Math.max(silenceMs - 5_000, silenceMs * 0.6));
    this.#tickMs = Math.min(TICK_MS, this.#beatMs / 2);
    this.restart();
    this.#hasSlept();
    this.#ticker = setInterval(() => this.#tick(), this.#tickMs);
  }

  stop(): void {
    if (this.#ticker !== null) clearInterval(this.#ticker);
    this.#ticker = null;
  }

  /** A line was sent, which counts as a beat. */
  sent(): void {
    this.#saidMs = performance.now();
  }

  /** There is a new connection: earlier beats are forgotten. */
  restart(): void {
    this.sent();
    this.#beatSentMs = 0;
  }

  /** Reading was resumed: the deadline of an unread answer starts again. */
  readsAgain(): void {
    if (this.#beatSentMs > 0) this.#beatSentMs = performance.now();
  }

  beat(): void {
    this.sent();
    if (this.#beatSentMs === 0) this.#beatSentMs = performance.now();
    const answered = (): number => (this.#beatSentMs = 0);
    this.#pulse.beat().then(answered, answered);
  }

  #hasSlept(): boolean {
    const [monotonicMs, wallMs] = [performance.now(), Date.now()];
    const passedMs = Math.max(monotonicMs - this.#monotonicMs, wallMs - this.#wallMs);
    this.#monotonicMs = monotonicMs;
    this.#wallMs = wallMs;
    return passedMs > this.#tickMs + SLEPT_MS;
  }

  #tick(): void {
    const hasSlept = this.#hasSlept();
    const state = this.#pulse.state();
    if (state === "away") return;
    const nowMs = performance.now();
    if (hasSlept) this.readsAgain();
    if (state === "read" && this.#beatSentMs > 0) {
      if (nowMs - this.#beatSentMs >= Math.min(BEAT_ANSWER_MS, this.#beatMs)) this.#pulse.late();
    } else if (hasSlept || nowMs - this.#saidMs >= this.#beatMs - this.#tickMs || this.#pulse.isDue(nowMs)) {
      this.beat();
    }
  }
}
