import { ADMIN_LINE_BYTES_MAX, ADMIN_SLICE_MS, ADMIN_UNSENT_BYTES_MAX } from "../limits.ts";
import { encode } from "../protocol/ascii.ts";
import type { AcceptedSocket } from "../net/tcp-transport.ts";
import type { SocketEvents } from "../net/transport.ts";
import { ADMIN_SHAPES, type AdminRequest, parseAdminRequest } from "../protocol/admin.ts";
import { LineReader } from "../protocol/line-reader.ts";
import type { ShardAdmin } from "./shard-admin.ts";
import { Outbox } from "../stream/outbox.ts";
import { SocketWriter } from "../stream/socket-writer.ts";
import type { Sink, Turn } from "../stream/turn.ts";
import { ADMIN_COMMANDS, AdminError, type Administered, HELP_LINES, type Reply, type ServedVerb } from "./commands.ts";

/** What a connection needs of its socket. */
export type AdminSocket = Pick<AcceptedSocket, "write" | "pause" | "resume" | "end" | "terminate">;

/** What the commands use of a cluster. */
export interface AdminOfCluster {
  /** What this process knows of its cluster, as the lines of `cluster`: docs/operating.md, Administration. */
  lines(): readonly string[];
  readonly shards: ShardAdmin;
}

/** What all connections of an admin socket share. */
export interface AdminContext {
  /** The running server, or why there is none at the moment. */
  readonly server: Administered | string;
  /** Collects the output of all connections. It waits for no disk. */
  readonly turn: Turn;
  /** A connection is closed after this time without a request, or while its reader takes nothing. */
  readonly idleMs: number;
  /** Resolves in a later turn, in each turn for one command: all together hold the event loop no longer than one. */
  nextTurn(): Promise<void>;
  readonly report: (error: unknown) => void;
  /** Null for a server that is not in a cluster. */
  readonly cluster: AdminOfCluster | null;
  /** A command has changed something. */
  readonly done: (request: AdminRequest) => void;
}

/** The peer has closed the connection, or did not read: the command ends. */
class ConnectionClosed extends Error {}

/**
 * One connection to the admin socket: requests to commands, one at a time, and their replies to the socket. After each
 * request the loop turns, so that a flood of lines holds nobody up; meanwhile nothing is read.
 */
export class AdminConnection implements Sink, Reply, SocketEvents {
  readonly #context: AdminContext;
  /** Null for a command that another server has sent: it is not passed on again. */
  readonly #shards: ShardAdmin | null;
  readonly #socket: AdminSocket;
  readonly #left: () => void;
  readonly #reader = new LineReader(ADMIN_LINE_BYTES_MAX);
  readonly #out: Outbox;
  readonly #writer: SocketWriter;
  #isServing = false;
  #isClosed = false;
  #peerEnded = false;
  /** Closes the connection when it fires. Not armed while a command runs that does not wait for the reader. */
  #timer: Timer | undefined;
  /** Monotonic time at which the command has begun to hold the event loop. */
  #sliceMs = 0;
  /** Resolves when the output is written, or the connection is closed. */
  #written: PromiseWithResolvers<void> | null = null;

  /**
   * `isOperator`: the commands are those of this server's operator, and not of another server's. `left` is called when
   * the socket is closed.
   */
  constructor(context: AdminContext, socket: AdminSocket, isOperator: boolean, left: () => void) {
    this.#context = context;
    this.#shards = isOperator ? (context.cluster?.shards ?? null) : null;
    this.#socket = socket;
    this.#left = left;
    this.#out = new Outbox(context.turn, true);
    this.#out.sink = this;
    this.#writer = new SocketWriter({ write: (bytes, start, count) => socket.write(bytes, start, count) });
    this.#armTimer();
  }

  data(chunk: Buffer): void {
    this.#reader.feed(chunk);
    void this.#serve();
  }

  /** The requests before the end of the input are answered. */
  end(): void {
    this.#peerEnded = true;
    void this.#serve();
  }

  drain(): void {
    this.#writer.isFull = false;
    this.#out.markDirty();
  }

  closed(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#left();
    this.#written?.resolve();
  }

  /** Closes without waiting for the reader. */
  hangUp(): void {
    this.#socket.terminate();
  }

  flush(): void {
    if (this.#isClosed) return;
    if (!this.#writer.write(this.#out)) return this.hangUp();
    if (this.#out.unsent === 0) this.#written?.resolve();
  }

  async #serve(): Promise<void> {
    if (this.#isServing || this.#isClosed) return;
    this.#isServing = true;
    this.#socket.pause();
    await this.#context.nextTurn();
    try {
      while (!this.#isClosed && this.#reader.next()) {
        clearTimeout(this.#timer);
        await this.#answer();
        this.#armTimer();
        await this.#drained();
      }
    } catch (error) {
      if (!(error instanceof ConnectionClosed)) this.#context.report(error);
      this.hangUp();
    }
    this.#isServing = false;
    if (this.#isClosed) return;
    if (this.#peerEnded) this.#socket.end();
    else this.#socket.resume();
  }

  #armTimer(): void {
    clearTimeout(this.#timer);
    if (!this.#isClosed) this.#timer = setTimeout(() => this.hangUp(), this.#context.idleMs);
  }

  async #answer(): Promise<void> {
    const { bytes, start, end, tooLong } = this.#reader;
    const line = Buffer.from(bytes.subarray(start, end)).toString("latin1");
    try {
      if (tooLong) throw new AdminError("line_too_long");
      const words = await this.#run(line);
      this.line(words === "" ? "ok" : `ok ${words}`);
    } catch (error) {
      if (error instanceof ConnectionClosed) throw error;
      if (error instanceof AdminError)
        return this.line(`err ${error.code}${error.message === "" ? "" : ` ${error.message}`}`);
      this.#context.report(error);
      this.line("err internal");
    }
  }

  async #run(line: string): Promise<string> {
    const request = parseAdminRequest(line);
    if (request === "unknown_command") throw new AdminError(request, "help lists the commands");
    if (request === "bad_request") throw new AdminError(request, usageFor(line));
    const { verb } = request;
    if (verb === "help" || verb === "cluster") {
      for (const line of verb === "help" ? HELP_LINES : this.#cluster.lines()) this.line(line);
      return "";
    }
    const shards = this.#shards;
    if (shards === null) return this.#runHere(verb, request);
    const shard = request.user === "" ? null : shards.elsewhere(request.user);
    if (shard !== null) return this.#ask(shards, shard, line);
    if (!ADMIN_COMMANDS[verb].isForAll) return this.#runHere(verb, request);
    let count = shards.isOwner ? Number(await this.#runHere(verb, request)) : 0;
    for (const other of shards.others) count += Number(await this.#ask(shards, other, line));
    return `${count}`;
  }

  get #cluster(): AdminOfCluster {
    const { cluster } = this.#context;
    if (cluster !== null) return cluster;
    throw new AdminError("failed", "this server keeps its own journal: it is not in a cluster");
  }

  /** Passes the lines of the owner of another shard on, and returns the words after its `ok`. */
  async #ask(shards: ShardAdmin, shard: number, line: string): Promise<string> {
    const reply = shards.ask(shard, line);
    for (;;) {
      const { done, value } = await reply.next();
      if (done) return value;
      this.line(value);
      if (this.#out.unsent > ADMIN_UNSENT_BYTES_MAX) await this.#drained();
    }
  }

  async #runHere(verb: ServedVerb, request: AdminRequest): Promise<string> {
    const server = this.#beginSlice();
    const { run, isChange } = ADMIN_COMMANDS[verb];
    const words = await run(server, request, this);
    if (!isChange) return words;
    await server.turn.saved();
    this.#context.done(request);
    return words;
  }

  line(text: string): void {
    this.#out.append(Buffer.from(`${text}\n`, "latin1"));
  }

  get isPauseDue(): boolean {
    return this.#out.unsent > ADMIN_UNSENT_BYTES_MAX || performance.now() - this.#sliceMs > ADMIN_SLICE_MS;
  }

  async pause(): Promise<void> {
    this.#armTimer();
    await this.#drained();
    clearTimeout(this.#timer);
    this.#beginSlice();
  }

  async nextTurn(delayMs = 0): Promise<void> {
    if (delayMs > 0) await Bun.sleep(delayMs);
    await this.#context.nextTurn();
    this.#beginSlice();
  }

  #beginSlice(): Administered {
    const { server } = this.#context;
    if (typeof server === "string") throw new AdminError("busy", server);
    server.turn.begin();
    this.#sliceMs = performance.now();
    return server;
  }

  /** Resolves in a later turn, when all output is written. */
  async #drained(): Promise<void> {
    await this.#context.nextTurn();
    if (this.#out.unsent > 0 && !this.#isClosed) {
      this.#written = Promise.withResolvers();
      await this.#written.promise;
      this.#written = null;
    }
    if (this.#isClosed) throw new ConnectionClosed();
  }
}

/** The usage of the verb of an invalid line. */
function usageFor(line: string): string {
  const [verb = ""] = line.split(" ", 1);
  return Object.hasOwn(ADMIN_SHAPES, verb)
    ? ADMIN_SHAPES[verb as keyof typeof ADMIN_SHAPES].usage
    : "the line is empty";
}

export const TOO_MANY = encode("err busy too many connections\n");
