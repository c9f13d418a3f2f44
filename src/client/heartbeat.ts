import { ANSWER_MS } from "./request.ts";

const BEAT_MS = 30_000;
const TICK_MS = 1_000;
/** A beat without an answer for so long tells that the server is gone: with the ticks, that is within ANSWER_MS. */
const BEAT_ANSWER_MS = ANSWER_MS - 2 * TICK_MS;
/** A tick that comes so much too late comes after a sleep of the machine. */
const SLEPT_MS = 5_000;

/** What a heartbeat needs to know of its session, and does with it. */
export interface Pulse {
  /** Whether beats can be sent now, and whether their answers are read now. */
  state(): "away" | "unread" | "read";
  /** Whether there is another reason to beat: something is to be acknowledged. */
  isDue(nowMs: number): boolean;
  /** Sends one; resolves or rejects when it is answered or will never be. */
  beat(): Promise<unknown>;
  /** The server did not answer in time. */
  late(): void;
}

/**
 * Decides when a session beats, well within the silence that ends it, and when an answer is so late that the server is
 * gone. During a suspend of the machine the monotonic clock may stand still while the wall clock goes on, so it looks
 * at both: after one, whatever was on its way may be gone, and a beat finds that out at once. A wall clock that is set
 * forward looks the same, which costs one beat.
 */
export class Heartbeat {
  readonly #pulse: Pulse;
  #ticker: Timer | null = null;
  #tickMs = TICK_MS;
  #beatMs = BEAT_MS;
  /** When something was sent last, whatever it was. */
  #saidMs = 0;
  /** When the beat was sent that has no answer yet; 0 when every one has. */
  #beatSentMs = 0;
  /** Both clocks at the last tick. */
  #monotonicMs = 0;
  #wallMs = 0;

  constructor(pulse: Pulse) {
    this.#pulse = pulse;
  }

  /** A session with that silence begins. */
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

  /** Something was sent: that counts as a beat. */
  said(): void {
    this.#saidMs = performance.now();
  }

  /** Answers are awaited from now on: there is a new connection. */
  restart(): void {
    this.said();
    this.#beatSentMs = 0;
  }

  /** Answers are read again: one that nobody read in between is not late. */
  readsAgain(): void {
    if (this.#beatSentMs > 0) this.#beatSentMs = performance.now();
  }

  beat(): void {
    this.said();
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
