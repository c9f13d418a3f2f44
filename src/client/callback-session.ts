import { type Server, type Socket, createServer } from "node:net";
import { ChatError } from "./errors.ts";
import { decode } from "./event.ts";
import { Heartbeat } from "./heartbeat.ts";
import { LineSplitter } from "./line-splitter.ts";
import { listenOnAllAddresses } from "./listen.ts";
import { type Login, type LoginReply, parseLogin } from "./login.ts";
import { UnauthenticatedCallers } from "./p2p/listener.ts";
import { FINAL_REASONS, type PendingReply, finalReason, refusalIn, settleReply, startsWithWord } from "./reply.ts";
import { REPLY_TIMEOUT_MS, retry } from "./retry.ts";
import { requestBytes } from "./request.ts";
import { type ConnectionListener, ServerConnection } from "./server-connection.ts";
import { SessionState, isSessionRequest } from "./session-state.ts";
import type { ChatSession, ClientStatus, SessionListener, SessionOptions } from "./session.ts";
import { resolvesWithin, sleep } from "./timing.ts";

/** The server calls right after a login. When no call arrives within this time, it cannot reach this client. */
const FIRST_CALL_MS = 5_000;
/** How long a request is repeated while the server has no room for its connection. */
const BUSY_MS = 30_000;
/**
 * While messages wait the server calls again within this time and a round trip. After the login it takes longer: it
 * prepares the mailbox first, and answers requests meanwhile.
 */
const NEXT_CALL_MS = 300;
const FIRST_DELIVERY_MS = 1_000;
/** Upper bound for the head line of a call, `callback <secret> <position> <bytes>`. */
const HEAD_BYTES_MAX = 256;

/** A connection from the server: a head line, then a number of bytes of the server's stream. */
interface Call {
  readonly socket: Socket;
  /** Secret of the session that was current when the head arrived. Calls of an earlier session deliver nothing. */
  secret: PromiseWithResolvers<string> | null;
  readonly reader: LineSplitter;
  /** Bytes that arrived before the caller was authenticated. */
  headBytes: number;
  /** Bytes of the stream that have not arrived; -1 before the head is accepted. */
  bytesLeft: number;
  /** Position in the server's stream after the last line of this call. */
  position: number;
  /** The delivered position when the call began; infinite after this client has acknowledged the call. */
  acked: number;
  /** Reason of the `goodbye` that this call delivered; empty without one. */
  goodbye: string;
  /** Resolves when the connection is closed. */
  closed: PromiseWithResolvers<void>;
}

/**
 * Callback sessions: how their bytes travel without a lasting connection. Each request has its own connection, one
 * after another, and the server connects to this client to deliver. The position in the stream tells which delivered
 * lines come again. SessionState owns everything else.
 */
export class CallbackSession implements ChatSession {
  readonly #state: SessionState;
  #callServer: Server | null = null;
  #callPort = 0;
  readonly #unauthenticated = new UnauthenticatedCallers<Call>(({ socket }) => socket.destroy());
  /** The last authenticated call. The server makes one at a time, so a new one replaces it. */
  #call: Call | null = null;
  readonly #heartbeat = new Heartbeat({
    state: () => "paused", // Each request has a deadline of its own.
    isDue: () => false,
    beat: () => this.#ack(),
    overdue: () => {},
  });
  /** Number of requests without a reply, except those of the session itself. */
  #requests = 0;
  /** The last request. Each request waits for the one before. */
  #lastRequest: Promise<unknown> = Promise.resolve();
  /** The secret that the server's calls begin with. A call may arrive before the reply to the login. */
  #secret = Promise.withResolvers<string>();
  #firstCall = Promise.withResolvers<void>();

  constructor(options: SessionOptions, listener: SessionListener) {
    this.#state = new SessionState(options, listener, {
      delivered: () => {
        if (!this.#state.stream.isFull(true, this.#requests > 0)) this.#call?.socket.resume();
      },
      stop: () => {
        this.#heartbeat.stop();
        this.#callServer?.close();
        this.#unauthenticated.destroyAll();
        if (this.#call?.acked !== Number.POSITIVE_INFINITY) this.#call?.socket.destroy();
      },
    });
  }

  get status(): ClientStatus {
    return this.#state.status;
  }

  /** Checks that a server listens at the address. */
  async connect(signal?: AbortSignal): Promise<void> {
    const listener = { line: () => {}, checkpoint: () => null, flush: () => "", closed: () => {} };
    (await ServerConnection.connect(this.#state.options, listener, signal)).close();
  }

  async login(user: string, password: string, listenPort: number, signal?: AbortSignal): Promise<Login> {
    const { token, silenceMs, actedOn } = await this.#state
      .login(user, password, listenPort, () => this.#logIn(signal))
      .catch((error: unknown) => {
        if (error instanceof ChatError && error.code === "unreachable") this.#state.end("logout");
        throw error;
      });
    this.#state.repeatPending(actedOn, ({ line, resolve, reject }) => void this.request(line).then(resolve, reject));
    this.#state.save();
    return { token, silenceMs };
  }

  async resume(): Promise<Login> {
    throw new ChatError("bad_request", "a callback session cannot be resumed; log in");
  }

  async #logIn(signal?: AbortSignal): Promise<LoginReply> {
    if (this.#callServer === null) await this.#listen();
    this.#secret = Promise.withResolvers();
    this.#firstCall = Promise.withResolvers();
    const reply = parseLogin(await this.#exchange(this.#state.loginRequest(` callback=${this.#callPort}`), signal));
    if (this.#state.hasEnded) throw new ChatError("closed");
    this.#state.startStream(reply.token, null);
    this.#state.save();
    this.#heartbeat.start(reply.silenceMs);
    this.#state.listener.began(this.#state.user);
    this.#secret.resolve(reply.secret);
    if (!(await resolvesWithin(FIRST_CALL_MS, this.#firstCall.promise))) {
      await this.#exchange(`as ${reply.token} logout`).catch(() => {});
      throw new ChatError("unreachable", `the server cannot call port ${this.#callPort} of this client`);
    }
    return reply;
  }

  async request(line: string, signal?: AbortSignal): Promise<string> {
    requestBytes(`as ${this.#state.token} ${line}`, this.#state.options.lineBytesMax);
    this.#requests++;
    return this.#enqueue(() => line, signal).finally(() => this.#requests--);
  }

  /** `line` is called after the requests before it: a position in it must belong to the session of that time. */
  #enqueue(line: () => string, signal?: AbortSignal): Promise<string> {
    const outcome = this.#lastRequest.then(() => this.#send(line(), signal));
    this.#lastRequest = outcome.catch(() => {});
    return outcome;
  }

  /** When the server has ended the session and did not act on a request, the request is repeated in a new session. */
  async #send(line: string, signal?: AbortSignal): Promise<string> {
    if (!this.#state.isOpen) throw new ChatError("closed");
    const secret = this.#secret;
    // After `busy` the server did not act on the request: it refused the connection. As the reply to `getaddress` (too
    // many open requests) it belongs to the caller.
    const temporary = line.startsWith("getaddress") ? [] : ["busy"];
    const attempt = async (): Promise<string> => {
      signal?.throwIfAborted(); // Before `busy` nothing was acted on.
      return this.#exchange(`as ${this.#state.token} ${line}`);
    };
    try {
      return await retry(attempt, temporary, Math.min(BUSY_MS, this.#state.options.giveUpMs));
    } catch (error) {
      const failure = error as ChatError;
      if (failure.code !== "unknown_session" || line.startsWith("logout")) throw error;
      const reason = finalReason(failure);
      if (reason !== null) this.#state.end(reason);
      else await this.#reconnect(secret);
      if (isSessionRequest(line)) throw error;
      return this.#send(line, signal);
    }
  }

  async ack(): Promise<void> {
    const startMs = performance.now();
    await this.#ack();
    // While messages wait the server calls again at once, which takes it one round trip; the request took two.
    const nextCallMs = this.#state.stream.read > 0 ? NEXT_CALL_MS : FIRST_DELIVERY_MS;
    await sleep(Math.max(nextCallMs, performance.now() - startMs));
    // A call that is in progress ends when everything that it brought is delivered and acknowledged.
    if (this.#call !== null) await resolvesWithin(REPLY_TIMEOUT_MS, this.#call.closed.promise);
    await this.#state.stream.settled();
  }

  /** A call in progress is acknowledged by its own reply, and a position beyond that would end it. */
  #ack(): Promise<string> {
    return this.#enqueue(() => (this.#call === null ? `alive ${this.#state.stream.delivered}` : "alive"));
  }

  async logout(): Promise<void> {
    await this.#enqueue(() => `logout ${this.#state.stream.delivered}`).catch((error: ChatError) => {
      if (error.code !== "unknown_session") throw error; // Otherwise the session has ended already.
    });
    this.#state.end("logout");
  }

  close(): void {
    this.#state.end("lost", true);
  }

  /** Sends one line on its own connection and returns the reply. */
  async #exchange(line: string, signal?: AbortSignal): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const pending: PendingReply = { resolve, reject };
    let unsent = `${line}\n`;
    let deadline: ReturnType<typeof setTimeout> | null = null;
    const listener: ConnectionListener = {
      line: (bytes, start, end) => {
        const isOk = startsWithWord(bytes, start, end, "ok");
        if (isOk || refusalIn(bytes, start, end) !== null) settleReply(pending, isOk, bytes, start, end);
        else deadline?.refresh(); // `waiting`: the reply comes later.
      },
      checkpoint: () => this.#state.save(),
      flush: () => {
        const lines = unsent;
        unsent = "";
        return lines;
      },
      // The server may have acted on the request.
      closed: ({ speaksTls }) => reject(new ChatError(speaksTls === true ? "needs_tls" : "unknown_outcome")),
    };
    const connection = await ServerConnection.connect(this.#state.options, listener, signal).catch(() => {
      throw signal?.aborted === true ? signal.reason : new ChatError("not_sent");
    });
    const onAbort = (): void => {
      reject(signal?.reason);
      connection.close();
    };
    signal?.addEventListener("abort", onAbort);
    connection.markDirty();
    // A server that does not reply must not block the requests after this one.
    deadline = setTimeout(() => connection.abandon(), REPLY_TIMEOUT_MS);
    return promise.finally(() => {
      clearTimeout(deadline!);
      signal?.removeEventListener("abort", onAbort);
      connection.close();
    });
  }

  /** Continues the session with this secret, which the server has ended, in a new one; unless that is done already. */
  async #reconnect(secret: PromiseWithResolvers<string> | null): Promise<void> {
    if (secret !== this.#secret) return;
    await this.#state.reconnect(async () => {
      await this.#state.stream.settledForNext(this.#requests > 0);
      if (!this.#state.hasEnded) await this.#logIn();
    });
  }

  async #listen(): Promise<void> {
    this.#callServer = createServer((socket) => {
      const reader = new LineSplitter();
      const closed = Promise.withResolvers<void>();
      const call: Call = {
        socket,
        secret: null,
        reader,
        headBytes: 0,
        bytesLeft: -1,
        position: 0,
        acked: 0,
        goodbye: "",
        closed,
      };
      this.#unauthenticated.add(call);
      socket.on("data", (chunk: Buffer) => this.#data(call, chunk));
      socket.on("error", () => {}); // `close` follows.
      socket.once("close", () => this.#closed(call));
    });
    this.#callPort = await listenOnAllAddresses(this.#callServer, this.#state.options.callbackPort).catch((error) => {
      this.#callServer = null;
      throw error;
    });
  }

  #data(call: Call, chunk: Uint8Array): void {
    call.reader.feed(chunk);
    if (call.bytesLeft >= 0) return this.#takeLines(call, chunk.length);
    call.headBytes += chunk.length;
    // The server sends one short line and waits for the reply.
    if (call.headBytes > HEAD_BYTES_MAX || call.secret !== null) return void call.socket.destroy();
    if (!call.reader.next()) return;
    const { bytes, start, end } = call.reader;
    void this.#authenticate(call, decode(bytes, start, end).split(" "));
  }

  /** A broken call may have delivered lines. They are acknowledged, so that the server does not send them again. */
  #closed(call: Call): void {
    const { secret, acked, closed } = call;
    closed.resolve();
    this.#unauthenticated.delete(call);
    if (this.#call === call) this.#call = null;
    const isCurrent = secret !== null && secret === this.#secret && !this.#state.hasEnded;
    if (isCurrent && this.#state.stream.delivered > acked) this.#ack().catch(() => {});
  }

  /** Accepts a call with the right secret that begins at or before the position read here. Closes any other. */
  async #authenticate(call: Call, [verb, secret, position, bytes]: string[]): Promise<void> {
    call.secret = this.#secret;
    const isServer = verb === "callback" && secret === (await this.#secret.promise) && call.secret === this.#secret;
    const { socket } = call;
    if (socket.destroyed) return; // Closed meanwhile.
    call.position = Number(position);
    call.bytesLeft = Number(bytes);
    const { read, delivered } = this.#state.stream;
    if (!isServer || !(call.position <= read) || !(call.bytesLeft >= 0)) return void socket.end();
    this.#unauthenticated.delete(call);
    this.#call?.socket.destroy();
    this.#call = call;
    call.acked = delivered;
    socket.write(`ready ${this.#state.token}\n`);
    this.#firstCall.resolve();
    this.#takeLines(call, 0);
  }

  /** Handles the new lines of a call. When the call is complete and delivered, acknowledges it. */
  #takeLines(call: Call, bytes: number): void {
    const { reader, socket } = call;
    const { stream } = this.#state;
    call.bytesLeft -= bytes;
    if (call.secret !== this.#secret) return void socket.end();
    while (!this.#state.hasEnded && reader.next()) {
      call.position += reader.lineBytes;
      if (call.position <= stream.read) continue; // Already read in an earlier call.
      const { bytes: line, start, end } = reader;
      call.goodbye = this.#state.takeEvent(call.position, line, start, end) ?? call.goodbye;
    }
    // After `replaced` the saved state belongs to the newer session.
    if (call.goodbye !== "replaced") this.#state.save();
    if (stream.isFull(false, this.#requests > 0)) socket.pause();
    if (call.bytesLeft > 0) return;
    call.bytesLeft = Number.POSITIVE_INFINITY; // Complete: further bytes are ignored.
    void this.#ackDelivered(call);
  }

  async #ackDelivered(call: Call): Promise<void> {
    await this.#state.stream.settled();
    if (call.goodbye !== "replaced") await this.#state.save();
    this.#ackCall(call);
  }

  /** Acknowledges a call whose lines are all delivered, and closes it. */
  #ackCall(call: Call): void {
    const { goodbye, secret, socket } = call;
    call.acked = Number.POSITIVE_INFINITY;
    if (secret !== this.#secret) return void socket.end();
    socket.end(`received ${this.#state.stream.delivered}\n`);
    if (FINAL_REASONS.includes(goodbye)) this.#state.end(goodbye);
    else if (goodbye !== "") this.#lastRequest = this.#lastRequest.then(() => this.#reconnect(secret));
  }
}
