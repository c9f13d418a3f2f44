import { DeliveryQueue } from "./delivery.ts";
import { ChatError, asChatError } from "./errors.ts";
import { loginLine } from "./login.ts";
import { type PendingReply, finalReason, goodbyeReason } from "./reply.ts";
import { Backoff, REPLY_TIMEOUT_MS, retry } from "./retry.ts";
import type { ClientState, ClientStatus, SessionListener, SessionOptions, StateStore } from "./session.ts";
import { later } from "./timing.ts";

/** A request without a reply. */
export interface PendingRequest extends PendingReply {
  line: string;
  /** Position in the client's stream after the line. */
  position: number;
  /** It was given to the network. After a loss that is unknown until the server tells how far it read. */
  isWritten: boolean;
  /** Made by an earlier run. When the session ends first, it stays in the saved state for the next run. */
  isRecovered: boolean;
}

/** The state of an earlier run that can be resumed. */
export type ResumableState = ClientState & { silenceMs: number };

/** What the state needs from the session that moves the bytes. */
export interface Carrier {
  /** The delivered position has advanced. */
  delivered(): void;
  /** The session has ended: closes connections and ports, and stops timers. */
  stop(): void;
}

/** Failures of a reconnect after which the next attempt may succeed. All others end the session. */
const LOST = ["closed", "not_sent", "unknown_outcome"];
const TEMPORARY = [...LOST, "busy", "internal", "locked_out", "unreachable", "untrusted", "needs_tls"];

/** Whether a request belongs to its session only: a later session does not repeat it. */
export function isSessionRequest(line: string): boolean {
  return /^(alive|logout|getaddress|private_answer)/.test(line);
}

/**
 * The state of a session, for any way in which its bytes travel: the login, requests without a reply, the positions in
 * the server's stream, saving, reconnects, and the end. It uses no socket: StreamSession and CallbackSession own those.
 */
export class SessionState {
  /** Name of the user; empty before the first login. */
  user = "";
  /** Token of the session; empty before the first login. */
  token = "";
  /** Requests without a reply, in order. */
  pending: PendingRequest[] = [];
  /** Positions in the server's stream: read and delivered. */
  readonly stream: DeliveryQueue = new DeliveryQueue(
    () => this.#delivered(),
    (error) => {
      this.listener.failed(error);
      this.end("undelivered", true);
    },
    (isEnd) => this.listener.discard(isEnd),
  );
  readonly options: SessionOptions;
  readonly listener: SessionListener;
  readonly #carrier: Carrier;
  /**
   * "connected" also before the first login. "ending": lines that were read are not all delivered yet. "ended": the
   * listener was called.
   */
  #phase: "connected" | "reconnecting" | "ending" | "ended" = "connected";
  #reason = "";
  /** What the server said with it. */
  #detail = "";
  /** The login request without the options of `loginRequest`. */
  #login = "";
  #store: StateStore | null = null;
  /** State of an earlier run, which the first login continues. */
  #earlier: ClientState | null = null;
  #silenceMs: number | undefined;
  /** Replies up to here were given to their requests by an earlier run. */
  #repliedTo = 0;
  #isSaved = true;
  /** The last save, until it and all earlier ones are done. */
  #saving: Promise<void> | null = null;
  /** Kept while each reconnect ends soon, without a line except `goodbye`. */
  #backoff: Backoff | null = null;

  constructor(options: SessionOptions, listener: SessionListener, carrier: Carrier) {
    this.options = options;
    this.listener = listener;
    this.#carrier = carrier;
  }

  get status(): ClientStatus {
    if (this.hasEnded) return "ended";
    return this.token === "" ? "new" : this.#phase === "connected" ? "online" : "lost";
  }

  get hasEnded(): boolean {
    return this.#phase === "ending" || this.#phase === "ended";
  }

  /** Whether requests may be made. */
  get isOpen(): boolean {
    return this.token !== "" && !this.hasEnded;
  }

  /** The first login, by `attempt`. Before that it loads the state and the requests of an earlier run. */
  async login<T>(user: string, password: string, listenPort: number, attempt: () => Promise<T>): Promise<T> {
    this.#login = loginLine(user, password, listenPort);
    await this.#load(user);
    this.pending = this.pending.filter(({ line }) => !isSessionRequest(line));
    return attempt().catch((error: unknown) => this.#forget(error));
  }

  /** Continues the session of an earlier run, by `attempt`. Rejects with `unknown_session` without a saved one. */
  async resume<T>(user: string, attempt: (earlier: ResumableState) => Promise<T>): Promise<T> {
    this.#login = "";
    const earlier = await this.#load(user);
    const { silenceMs } = earlier ?? {};
    if (earlier === null || !silenceMs) return this.#forget(new ChatError("unknown_session"));
    return attempt({ ...earlier, silenceMs }).catch((error: unknown) => this.#forget(error));
  }

  /** Loads the state and the requests of an earlier run. */
  async #load(user: string): Promise<ClientState | null> {
    this.user = user;
    this.#store = await this.options.store(user);
    this.#earlier = (await this.#store?.load()) ?? null;
    this.pending = (this.#earlier?.unanswered ?? []).map(({ line, position }) => {
      const report = (error: ChatError | null, words = ""): void => {
        if (!isSessionRequest(line)) this.listener.recovered(line, error, words);
      };
      const resolve = (words: string): void => report(null, words);
      return { line, position, isWritten: true, isRecovered: true, resolve, reject: report };
    });
    return this.#earlier;
  }

  /** The first attempt has failed: a later one loads the state again. */
  #forget(error: unknown): never {
    this.pending.length = 0;
    throw error;
  }

  /** Whether a new session may be begun. It needs the password, which `resume` does not have. */
  get canLogIn(): boolean {
    return this.#login !== "";
  }

  /** The request for a login with `options`, which continues the session before it. */
  loginRequest(options: string): string {
    const earlier = this.token === "" ? this.#earlier : { token: this.token, received: this.stream.delivered };
    return this.#login + options + (earlier === null ? "" : ` after=${earlier.token}:${earlier.received}`);
  }

  /** A login was accepted: the server's stream begins at position 0. `silenceMs`: null when it cannot be resumed. */
  startStream(token: string, silenceMs: number | null): void {
    this.token = token;
    this.#silenceMs = silenceMs ?? undefined;
    this.#repliedTo = 0;
    this.stream.restart();
    this.#isSaved = false;
  }

  /** The session of an earlier run is resumed: the server's stream continues. */
  continueStream({ token, received, read = received, silenceMs }: ResumableState): void {
    this.startStream(token, silenceMs);
    this.#repliedTo = read;
    this.stream.restart(received);
  }

  /**
   * Sends the pending requests of an earlier session again if the server is known not to have acted on them: those
   * after position `actedOn`. The others reject with `unknown_outcome`.
   */
  repeatPending(actedOn: number, send: (request: PendingRequest) => void): void {
    const earlier = this.pending;
    this.pending = [];
    this.#isSaved = false;
    for (const request of earlier) {
      // The position in `alive` and `logout` is one of the earlier stream: in this one it would ack unseen lines.
      if (!isSessionRequest(request.line) && request.position > actedOn) send(request);
      else if (request.line.startsWith("logout")) send({ ...request, line: "logout" });
      else request.reject(new ChatError("unknown_outcome"));
    }
  }

  addPending(request: PendingRequest): void {
    this.pending.push(request);
    this.#isSaved = false;
  }

  /** The requests that were not given to the network, which they are now. */
  unwrittenLines(): string {
    let first = this.pending.length;
    while (first > 0 && !this.pending[first - 1]!.isWritten) first--;
    let lines = "";
    for (const request of this.pending.slice(first)) {
      request.isWritten = true;
      lines += `${request.line}\n`;
    }
    return lines;
  }

  /** Takes back a request that was not written, so that those after it move. False when it is too late. */
  cancelPending(request: PendingRequest, bytes: number): boolean {
    const index = this.pending.indexOf(request);
    if (index < 0 || request.isWritten) return false;
    this.pending.splice(index, 1);
    for (const after of this.pending.slice(index)) after.position -= bytes;
    this.#isSaved = false;
    later(() => this.save());
    return true;
  }

  /** A reply that ends at `position` was read. Returns its request; undefined when there is none. */
  takeReply(position: number): PendingRequest | undefined {
    this.#isSaved = false;
    this.#backoff = null;
    this.stream.take(position);
    return position > this.#repliedTo ? this.pending.shift() : undefined;
  }

  /** An event that ends at `position` was read. Returns the reason of a `goodbye`, null for all other events. */
  takeEvent(position: number, bytes: Uint8Array, start: number, end: number): string | null {
    const reason = goodbyeReason(bytes, start, end);
    this.#isSaved = false;
    if (reason === null) this.#backoff = null;
    this.stream.take(position, () => this.listener.event(bytes, start, end));
    return reason;
  }

  /**
   * Saves the state unless it is saved: `received` is the delivered position. Returns null when it is saved, or a
   * promise that resolves when it is. A save that fails ends the session.
   */
  save(): Promise<void> | null {
    if (this.#isSaved || this.#phase === "ended" || this.token === "" || this.#store === null) return this.#saving;
    this.#isSaved = true;
    const unanswered = this.pending.map(({ line, position }) => ({ line, position }));
    const { delivered: received, read } = this.stream;
    const state: ClientState = { token: this.token, received, unanswered, read };
    if (this.#silenceMs !== undefined) state.silenceMs = this.#silenceMs;
    try {
      const outcome = this.#store.save(state);
      if (typeof outcome?.then === "function") this.#waitFor(outcome);
    } catch (error) {
      this.#saveFailed(error);
    }
    return this.#saving;
  }

  #waitFor(outcome: Promise<void>): void {
    const saving = Promise.all([this.#saving, outcome]).then(
      () => {
        if (this.#saving === saving) this.#saving = null;
      },
      (error: unknown) => this.#saveFailed(error),
    );
    this.#saving = saving;
  }

  /** Nothing may be sent any more that depends on the state. */
  #saveFailed(error: unknown): void {
    if (this.#store === null) return;
    this.#store = null;
    this.#saving = null;
    this.listener.failed(error);
    this.end("not_saved", true);
  }

  #delivered(): void {
    if (this.#phase === "ended") return;
    if (this.#isSaved) later(() => this.save());
    this.#isSaved = false;
    this.#carrier.delivered();
  }

  /**
   * The connection was lost, or the server has ended the session: repeats `attempt` with growing delays until the
   * session continues, or ends it. Does nothing before the first login, after the end, and while it is running.
   */
  async reconnect(attempt: () => Promise<void>): Promise<void> {
    if (this.token === "" || this.#phase !== "connected") return;
    if (this.options.kind === "plain") return this.end("lost");
    this.#phase = "reconnecting";
    this.listener.lost();
    if (this.#backoff === null || this.#backoff.sinceLastMs > REPLY_TIMEOUT_MS) this.#backoff = new Backoff();
    const backoff = this.#backoff;
    const { giveUpMs } = this.options;
    if (backoff.elapsedMs > giveUpMs) return this.end("lost");
    await backoff.next();
    let reported = "";
    const reportingAttempt = (): Promise<void> =>
      attempt().catch((error: unknown) => {
        const failure = asChatError(error);
        if (failure.code !== "untrusted" || failure.detail === reported) throw failure;
        reported = failure.detail;
        this.listener.untrusted(failure);
        throw failure;
      });
    const failure = await retry(reportingAttempt, TEMPORARY, giveUpMs, backoff).catch(asChatError);
    if (this.hasEnded) return;
    if (failure !== undefined) {
      this.#detail = failure.detail;
      return this.end(finalReason(failure) ?? (LOST.includes(failure.code) ? "lost" : failure.code));
    }
    this.#phase = "connected";
    this.listener.back();
  }

  /** Goes on when the timer between two attempts is late. */
  retryIfDue(): void {
    this.#backoff?.endIfDue();
  }

  /** Ends the session, and calls the listener when everything that was read is delivered; at once with `atOnce`. */
  end(reason: string, atOnce = false): void {
    if (!this.hasEnded) {
      this.#phase = "ending";
      this.#reason = reason;
      // After `replaced` the saved state belongs to the newer session.
      if (reason === "replaced") this.#store = null;
      this.save();
      this.#carrier.stop();
      for (const { isRecovered, reject } of this.pending) if (!isRecovered) reject(new ChatError("closed"));
    }
    this.stream.finish(atOnce, () => this.#reportEnd());
  }

  #reportEnd(): void {
    if (this.#phase === "ended") return;
    const saving = this.save();
    this.#phase = "ended";
    if (this.token === "") return;
    const report = (): void => this.listener.ended(this.#reason, this.#detail);
    if (saving === null) report();
    else void saving.then(report);
  }
}
