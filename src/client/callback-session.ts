import type { Socket, TCPSocketListener } from "bun";
import { SERVER_LINE_BYTES_MAX } from "../limits.ts";
import { everyAddress } from "../runtime/host.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { RECEIVED_CHUNKS } from "../runtime/received-chunk.ts";
import { decode } from "./event.ts";
import { DeliveryQueue } from "./delivery.ts";
import { Heartbeat } from "./heartbeat.ts";
import { ServerConnection } from "./server-connection.ts";
import { Greetings } from "./p2p/listener.ts";
import {
  ANSWER_MS,
  type PendingReply,
  type ChatSession,
  ChatError,
  type Login,
  Backoff,
  STAYS_AWAY,
  type SessionListener,
  type SessionOptions,
  type StateStore,
  answer,
  goodbyeReason,
  isOwn,
  loginLine,
  parseLogin,
  refusalIn,
  retry,
  startsWithWord,
} from "./request.ts";

/** The server calls right after a login; a client that hears nothing for so long cannot be reached. */
const FIRST_CALL_MS = 5_000;
/** A request that the server refuses for lack of room is retried for this time. */
const BUSY_MS = 30_000;
/**
 * While something waits the server calls again within this time and a round trip. After the login it takes longer: it
 * prepares the mailbox first, and answers requests meanwhile.
 */
const NEXT_CALL_MS = 300;
const FIRST_DELIVERY_MS = 1_000;
/** Failures after which a later login may succeed. */
const PASSING = ["closed", "not_sent", "unknown_outcome", "unreachable", "busy", "internal", "locked_out"];
/** The longest head line of a call, `callback <secret> <position> <bytes>`, with room to spare. */
const HEAD_BYTES_MAX = 256;

/** A call under way: its head line, and then so many bytes of the server's stream. */
interface Call {
  /** Whose calls show that secret: a call of an earlier session has nothing more to say. */
  secret: PromiseWithResolvers<string> | null;
  reader: LineReader;
  /** Bytes that came before the caller had proved to be the server. */
  headBytes: number;
  /** Bytes that are still to come; -1 before the head. */
  left: number;
  /** Position of the next line in the stream. */
  position: number;
  /** How far the stream was delivered when the call began. */
  deliveredBefore: number;
  /** The client has acknowledged the call. */
  isAnswered: boolean;
  /** Reason of the `goodbye` that this call delivered; empty without one. */
  goodbye: string;
  /** Resolves when the connection is closed. */
  closed: PromiseWithResolvers<void>;
}

/**
 * A session without a connection of its own: each request is a connection, one after the other, and the server calls
 * this client to deliver. Its position in the stream is its memory, so that a delivery that comes twice is told once.
 */
export class CallbackSession implements ChatSession {
  readonly #options: SessionOptions;
  readonly #listener: SessionListener;
  #store: StateStore | null = null;
  #port: TCPSocketListener<Call> | null = null;
  /** Callers that have not shown the secret, and the last one that has: the server calls once at a time. */
  readonly #greetings = new Greetings<Socket<Call>>((socket) => socket.terminate());
  #call: Socket<Call> | null = null;
  #user = "";
  /** How it logs in, but for `callback=` and `after=`. */
  #login = "";
  #token = "";
  /** Positions in the server's stream: read and delivered. */
  readonly #stream = new DeliveryQueue(
    () => this.#delivered(),
    () => this.#end("undelivered", true),
  );
  #saved = true;
  /** How far the server acted on the requests of an earlier, resumable session; everything when nobody knows. */
  #acted = Number.POSITIVE_INFINITY;
  /** Reason of the end; empty while the session goes on. */
  #reason = "";
  #hasToldEnd = false;
  readonly #heartbeat = new Heartbeat({
    state: () => "unread", // Without a lasting connection no answer can be late.
    isDue: () => false,
    beat: () => this.#confirm(),
    late: () => {},
  });
  /** Requests without a reply, beats not counted. */
  #requests = 0;
  /** Requests go one at a time: each waits for the one before. */
  #last: Promise<unknown> = Promise.resolve();
  /** The secret that the server's calls show; a call may come before the login's reply. */
  #secret = Promise.withResolvers<string>();
  #firstCall = Promise.withResolvers<void>();
  /** Before each login that follows an ended session; they grow while sessions end soon after they began. */
  #pauses = new Backoff();

  constructor(options: SessionOptions, listener: SessionListener) {
    this.#options = options;
    this.#listener = listener;
  }

  /** Finds out whether somebody listens at the server's port. */
  async connect(): Promise<void> {
    (await ServerConnection.connect(this.#options, { line: () => {}, checkpoint: () => {}, closed: () => {} })).close();
  }

  async login(user: string, password: string, listenPort: number): Promise<Login> {
    this.#user = user;
    this.#login = loginLine(user, password, listenPort);
    this.#store = await this.#options.store(user);
    const earlier = this.#store?.load() ?? null;
    const after = earlier === null ? "" : ` after=${earlier.token}:${earlier.received}`;
    const login = await this.#logIn(after).catch((error: unknown) => {
      if (error instanceof ChatError && error.code === "unreachable") this.#end("logout");
      throw error;
    });
    for (const { line, position } of earlier?.unanswered ?? []) {
      const tell = (error: ChatError | null): void => this.#listener.recovered(line, error);
      if (position > this.#acted) this.request(line).then(() => tell(null), tell);
      else tell(new ChatError("unknown_outcome"));
    }
    return login;
  }

  async #logIn(after: string): Promise<Login> {
    this.#port ??= this.#listen();
    this.#secret = Promise.withResolvers();
    this.#firstCall = Promise.withResolvers();
    const words = await this.#say(`${this.#login} callback=${this.#port.port}${after}`);
    const { token, silenceMs, more } = parseLogin(words);
    const option = (name: string): string | undefined => more.find((word) => word.startsWith(name))?.slice(name.length);
    this.#token = token;
    this.#stream.restart();
    this.#acted = Number(option("received=") ?? Number.POSITIVE_INFINITY);
    this.#saved = false;
    this.#save();
    this.#listener.began(this.#user);
    this.#secret.resolve(option("secret=") ?? "");
    this.#heartbeat.start(silenceMs);
    const inTime = await Promise.race([this.#firstCall.promise.then(() => true), Bun.sleep(FIRST_CALL_MS)]);
    if (inTime !== true) {
      await this.#say(`as ${token} logout`).catch(() => {});
      throw new ChatError("unreachable", `the server could not call port ${this.#port.port} here`);
    }
    return { token, silenceMs };
  }

  request(line: string): Promise<string> {
    this.#requests++;
    return this.#queue(() => line).finally(() => this.#requests--);
  }

  /** `line` is called when its turn has come: a position in it must belong to the session of that moment. */
  #queue(line: () => string): Promise<string> {
    const outcome = this.#last.then(() => this.#ask(line()));
    this.#last = outcome.catch(() => {});
    return outcome;
  }

  /** What the server did not act on, since it has ended the session, is said again in the one that follows. */
  async #ask(line: string): Promise<string> {
    if (this.#ended || this.#token === "") throw new ChatError("closed");
    const secret = this.#secret;
    try {
      return await this.#sayPatiently(line);
    } catch (error) {
      const { code, detail } = error as ChatError;
      if (code !== "unknown_session" || line.startsWith("logout")) throw error;
      const [word = ""] = detail.split(" ");
      if (STAYS_AWAY.includes(word)) this.#end(word);
      else await this.#comeBack(secret);
      if (isOwn(line)) throw error;
      return this.#ask(line);
    }
  }

  async confirm(): Promise<void> {
    const startMs = performance.now();
    await this.#confirm();
    // While something waits the server calls again at once, which takes it one round trip; the request took two.
    const nextCallMs = this.#stream.read > 0 ? NEXT_CALL_MS : FIRST_DELIVERY_MS;
    await Bun.sleep(Math.max(nextCallMs, performance.now() - startMs));
    // A call that is in progress ends when everything that it brought is delivered and acknowledged.
    if (this.#call !== null) await Promise.race([this.#call.data.closed.promise, Bun.sleep(ANSWER_MS)]);
    await this.#stream.settled();
  }

  /** Acknowledges by a beat, unless a call is in progress: its answer does, and a position beyond its own ends it. */
  #confirm(): Promise<string> {
    return this.#queue(() => (this.#call === null ? `alive ${this.#stream.delivered}` : "alive"));
  }

  async logout(): Promise<void> {
    await this.#queue(() => `logout ${this.#stream.delivered}`).catch((error: ChatError) => {
      if (error.code !== "unknown_session") throw error; // Else it is over already.
    });
    this.#end("logout");
  }

  close(): void {
    this.#end("lost", true);
  }

  get #ended(): boolean {
    return this.#reason !== "";
  }

  /** Sends a request, and again after `busy`: the server refused the connection and did not act on it. */
  #sayPatiently(line: string): Promise<string> {
    // `busy` may be the reply to `getaddress` itself (too many questions): the user gets it.
    const passing = line.startsWith("getaddress") ? [] : ["busy"];
    const attempt = (): Promise<string> => this.#say(`as ${this.#token} ${line}`);
    return retry(attempt, passing, Math.min(BUSY_MS, this.#options.giveUpMs));
  }

  /** One line on a connection of its own, and its reply. */
  async #say(line: string): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const awaited: PendingReply = { resolve, reject };
    const link = await ServerConnection.connect(this.#options, {
      line: (bytes, start, end) => {
        const isOk = startsWithWord(bytes, start, end, "ok");
        if (isOk || refusalIn(bytes, start, end) !== null) answer(awaited, isOk, bytes, start, end);
      },
      checkpoint: () => {},
      // It was acted on or not: nobody knows.
      closed: (link) => reject(new ChatError(link.speaksTls === true ? "needs_tls" : "unknown_outcome")),
    }).catch(() => {
      throw new ChatError("not_sent");
    });
    link.send(line);
    // A server that does not answer must not hold up the requests behind this one for ever.
    const deadline = setTimeout(() => link.close(), ANSWER_MS);
    return promise.finally(() => {
      clearTimeout(deadline);
      link.close();
    });
  }

  /** The server has ended the session of that secret: a new one takes its stream up, unless one has already. */
  async #comeBack(secret: PromiseWithResolvers<string> | null): Promise<void> {
    if (secret !== this.#secret) return;
    this.#listener.lost();
    if (this.#pauses.sinceLastMs > ANSWER_MS) this.#pauses = new Backoff();
    await this.#pauses.next();
    const attempt = async (): Promise<void> => {
      await this.#stream.settledForNext(this.#requests > 0);
      if (!this.#ended) await this.#logIn(` after=${this.#token}:${this.#stream.delivered}`);
    };
    try {
      await retry(attempt, PASSING, this.#options.giveUpMs);
      if (!this.#ended) this.#listener.back();
    } catch (error) {
      const { code } = error as ChatError;
      this.#end(["closed", "not_sent", "unknown_outcome"].includes(code) ? "lost" : code);
    }
  }

  #listen(): TCPSocketListener<Call> {
    return Bun.listen<Call>({
      hostname: everyAddress(),
      port: this.#options.callbackPort,
      socket: {
        open: (socket) => {
          const reader = new LineReader(SERVER_LINE_BYTES_MAX, RECEIVED_CHUNKS);
          const closed = Promise.withResolvers<void>();
          const call = { headBytes: 0, left: -1, position: 0, deliveredBefore: 0, isAnswered: false };
          socket.data = { secret: null, reader, ...call, goodbye: "", closed };
          this.#greetings.add(socket);
        },
        data: (socket, chunk) => this.#hear(socket, chunk),
        close: (socket) => this.#closed(socket),
      },
    });
  }

  #hear(socket: Socket<Call>, chunk: Buffer): void {
    const call = socket.data;
    call.reader.feed(chunk);
    if (call.left >= 0) return this.#tell(socket, chunk.length);
    call.headBytes += chunk.length;
    // The server sends one short line and waits for the answer.
    if (call.headBytes > HEAD_BYTES_MAX || call.secret !== null) return void socket.terminate();
    if (!call.reader.next()) return;
    const { bytes, start, end } = call.reader;
    void this.#answerCall(socket, decode(bytes, start, end).split(" "));
  }

  /** A call that was cut may have delivered something: the server goes on after it, and does not send it again. */
  #closed(socket: Socket<Call>): void {
    const { secret, isAnswered, deliveredBefore, closed } = socket.data;
    closed.resolve();
    this.#greetings.delete(socket);
    if (this.#call === socket) this.#call = null;
    const isSession = secret !== null && secret === this.#secret && !this.#ended;
    if (isSession && !isAnswered && this.#stream.delivered > deliveredBefore) this.#confirm().catch(() => {});
  }

  /** Only who knows the secret is answered, and not when the call begins beyond what is known here. */
  async #answerCall(socket: Socket<Call>, [verb, secret, position, bytes]: string[]): Promise<void> {
    const call = socket.data;
    call.secret = this.#secret;
    const isServer = verb === "callback" && secret === (await this.#secret.promise) && call.secret === this.#secret;
    if (socket.readyState !== 1) return; // It was cut meanwhile.
    call.position = Number(position);
    call.left = Number(bytes);
    if (!isServer || !(call.position <= this.#stream.read) || !(call.left >= 0)) return void socket.end();
    this.#greetings.delete(socket);
    this.#call?.terminate();
    this.#call = socket;
    call.deliveredBefore = this.#stream.delivered;
    socket.write(`ready ${this.#token}\n`);
    this.#firstCall.resolve();
    this.#tell(socket, 0);
  }

  /** Handles the new lines of a call. When the call is complete and delivered, acknowledges it. */
  #tell(socket: Socket<Call>, bytes: number): void {
    const call = socket.data;
    const { reader } = call;
    call.left -= bytes;
    if (call.secret !== this.#secret) return void socket.end();
    while (!this.#ended && reader.next()) {
      call.position += reader.lineBytes;
      if (call.position <= this.#stream.read) continue;
      const { bytes: line, start, end } = reader;
      this.#saved = false;
      this.#stream.take(call.position, () => this.#listener.event(line, start, end));
      call.goodbye = goodbyeReason(line, start, end) ?? call.goodbye;
    }
    if (call.goodbye !== "replaced") this.#save();
    if (this.#stream.isFull(false, this.#requests > 0)) socket.pause();
    if (call.left > 0) return;
    call.left = Number.POSITIVE_INFINITY; // Complete: further bytes are ignored.
    void this.#stream.settled().then(() => this.#answer(socket));
  }

  /** Acknowledges a call whose lines are all delivered, and closes it. */
  #answer(socket: Socket<Call>): void {
    const { goodbye, secret } = socket.data;
    socket.data.isAnswered = true;
    if (secret !== this.#secret) return void socket.end();
    socket.end(`received ${this.#stream.delivered}\n`);
    if (STAYS_AWAY.includes(goodbye)) this.#end(goodbye);
    else if (goodbye !== "") this.#last = this.#last.then(() => this.#comeBack(secret));
  }

  /** The delivered position has advanced. */
  #delivered(): void {
    if (this.#hasToldEnd) return;
    if (this.#saved) setImmediate(() => this.#save());
    this.#saved = false;
    if (!this.#stream.isFull(true, this.#requests > 0)) this.#call?.resume();
  }

  #save(): void {
    if (this.#saved || this.#hasToldEnd || this.#token === "") return;
    this.#saved = true;
    this.#store?.save({ token: this.#token, received: this.#stream.delivered, unanswered: [] });
  }

  /** Ends the session. The listener is called at once, or when everything that was read is delivered. */
  #end(reason: string, atOnce = false): void {
    if (!this.#ended) {
      this.#reason = reason;
      // After `replaced` the state file belongs to the newer session.
      if (reason === "replaced") this.#store = null;
      this.#heartbeat.stop();
      this.#port?.stop(true);
    }
    this.#stream.finish(atOnce, () => this.#tellEnd());
  }

  #tellEnd(): void {
    if (this.#hasToldEnd) return;
    this.#save();
    this.#hasToldEnd = true;
    if (this.#token !== "") this.#listener.ended(this.#reason);
  }
}
