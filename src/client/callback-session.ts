import type { Socket, TCPSocketListener } from "bun";
import { SERVER_LINE_BYTES_MAX } from "../limits.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { decode } from "./event.ts";
import { Link } from "./link.ts";
import { Greetings } from "./listener.ts";
import {
  ANSWER_MS,
  type Asker,
  type ChatSession,
  ChatError,
  type Login,
  Pauses,
  type SessionListener,
  type SessionOptions,
  type StateStore,
  answer,
  beatMsFor,
  goodbyeReason,
  isOwn,
  loginLine,
  startsWithWord,
} from "./request.ts";

/** The server calls right after a login; a client that hears nothing for so long cannot be reached. */
const FIRST_CALL_MS = 5_000;
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
  /** How far the stream had come when the call began. */
  receivedBefore: number;
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
  #received = 0;
  /** How far the server acted on the requests of an earlier, resumable session; everything when nobody knows. */
  #acted = Number.POSITIVE_INFINITY;
  #ended = false;
  #beat: Timer | null = null;
  /** Requests go one at a time: each waits for the one before. */
  #last: Promise<unknown> = Promise.resolve();
  /** The secret that the server's calls show; a call may come before the login's reply. */
  #secret = Promise.withResolvers<string>();
  #firstCall = Promise.withResolvers<void>();

  constructor(options: SessionOptions, listener: SessionListener) {
    this.#options = options;
    this.#listener = listener;
  }

  /** Finds out whether somebody listens at the server's port. */
  async connect(): Promise<void> {
    (await Link.connect(this.#options, { line: () => {}, checkpoint: () => {}, closed: () => {} })).close();
  }

  async login(user: string, password: string, listenPort: number): Promise<Login> {
    this.#user = user;
    this.#login = loginLine(user, password, listenPort);
    this.#store = this.#options.store(user);
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
    const [token = "", silence = "", ...rest] = words.split(" ");
    const option = (name: string): string | undefined => rest.find((word) => word.startsWith(name))?.slice(name.length);
    this.#token = token;
    this.#received = 0;
    this.#acted = Number(option("received=") ?? Number.POSITIVE_INFINITY);
    this.#save();
    this.#listener.began(this.#user);
    this.#secret.resolve(option("secret=") ?? "");
    const silenceMs = Number(silence) * 1000;
    if (this.#beat !== null) clearInterval(this.#beat);
    this.#beat = setInterval(() => void this.request("alive").catch(() => {}), beatMsFor(silenceMs));
    const inTime = await Promise.race([this.#firstCall.promise.then(() => true), Bun.sleep(FIRST_CALL_MS)]);
    if (inTime !== true) {
      await this.#say(`as ${token} logout`).catch(() => {});
      throw new ChatError("unreachable", `the server could not call port ${this.#port.port} here`);
    }
    return { token, silenceMs };
  }

  request(line: string): Promise<string> {
    return this.#queue(() => line);
  }

  /** The line is made when its turn has come: a position must be of the session that it is said in. */
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
      return await this.#say(`as ${this.#token} ${line}`);
    } catch (error) {
      const { code, detail } = error as ChatError;
      if (code !== "unknown_session" || line.startsWith("logout")) throw error;
      if (detail.startsWith("replaced")) this.#end("replaced");
      else await this.#comeBack(secret);
      if (isOwn(line)) throw error;
      return this.#ask(line);
    }
  }

  async confirm(): Promise<void> {
    await this.#queue(() => `alive ${this.#received}`);
  }

  async logout(): Promise<void> {
    await this.#queue(() => `logout ${this.#received}`).catch((error: ChatError) => {
      if (error.code !== "unknown_session") throw error; // Else it is over already.
    });
    this.#end("logout");
  }

  close(): void {
    this.#end("lost");
  }

  /** One line on a connection of its own, and its reply. */
  async #say(line: string): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const awaited: Asker = { resolve, reject };
    const link = await Link.connect(this.#options, {
      line: (bytes, start, end) => answer(awaited, startsWithWord(bytes, start, end, "ok"), bytes, start, end),
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
    const lostMs = performance.now();
    for (const pauses = new Pauses(); !this.#ended; await pauses.next()) {
      try {
        await this.#logIn(` after=${this.#token}:${this.#received}`);
        return this.#listener.back();
      } catch (error) {
        const { code } = error as ChatError;
        if (!["not_sent", "unknown_outcome", "unreachable", "busy", "internal"].includes(code)) return this.#end(code);
        if (performance.now() - lostMs > this.#options.giveUpMs) return this.#end("lost");
      }
    }
  }

  #listen(): TCPSocketListener<Call> {
    return Bun.listen<Call>({
      hostname: "0.0.0.0",
      port: this.#options.callbackPort,
      socket: {
        open: (socket) => {
          const reader = new LineReader(SERVER_LINE_BYTES_MAX);
          socket.data = { secret: null, reader, headBytes: 0, left: -1, position: 0, receivedBefore: 0 };
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
    // The server says one short line, and waits for the answer.
    if (call.headBytes > HEAD_BYTES_MAX || call.secret !== null) return void socket.terminate();
    if (!call.reader.next()) return;
    const { bytes, start, end } = call.reader;
    void this.#answerCall(socket, decode(bytes, start, end).split(" "));
  }

  /** A call that was cut has brought something: the server goes on behind it, and does not bring it again. */
  #closed(socket: Socket<Call>): void {
    const { secret, left, receivedBefore } = socket.data;
    this.#greetings.delete(socket);
    if (this.#call === socket) this.#call = null;
    if (left <= 0 || secret !== this.#secret || this.#received === receivedBefore || this.#ended) return;
    this.confirm().catch(() => {});
  }

  /** Only who knows the secret is answered, and not when the call begins beyond what is known here. */
  async #answerCall(socket: Socket<Call>, [verb, secret, position, bytes]: string[]): Promise<void> {
    const call = socket.data;
    call.secret = this.#secret;
    const isServer = verb === "callback" && secret === (await this.#secret.promise) && call.secret === this.#secret;
    if (socket.readyState !== 1) return; // It was cut meanwhile.
    call.position = Number(position);
    call.left = Number(bytes);
    if (!isServer || !(call.position <= this.#received) || !(call.left >= 0)) return void socket.end();
    this.#greetings.delete(socket);
    this.#call?.terminate();
    this.#call = socket;
    call.receivedBefore = this.#received;
    socket.write(`ready ${this.#token}\n`);
    this.#firstCall.resolve();
    this.#tell(socket, 0);
  }

  /** Tells the lines that are new, confirms, and hangs up. */
  #tell(socket: Socket<Call>, bytes: number): void {
    const call = socket.data;
    const { reader } = call;
    call.left -= bytes;
    if (call.secret !== this.#secret) return void socket.end();
    let goodbye = "";
    while (!this.#ended && reader.next()) {
      call.position += reader.lineBytes;
      if (call.position <= this.#received) continue;
      this.#received = call.position;
      this.#listener.event(reader.bytes, reader.start, reader.end);
      goodbye = goodbyeReason(reader.bytes, reader.start, reader.end) ?? goodbye;
    }
    if (goodbye !== "replaced") this.#save();
    if (call.left > 0) return;
    socket.end(`received ${this.#received}\n`);
    if (goodbye === "replaced") this.#end(goodbye);
    else if (goodbye !== "") this.#last = this.#last.then(() => this.#comeBack(call.secret));
  }

  #save(): void {
    if (!this.#ended) this.#store?.save({ token: this.#token, received: this.#received, unanswered: [] });
  }

  #end(reason: string): void {
    if (this.#ended) return;
    if (reason === "logout") this.#save();
    this.#ended = true;
    if (this.#beat !== null) clearInterval(this.#beat);
    this.#port?.stop(true);
    if (this.#token !== "") this.#listener.ended(reason);
  }
}
