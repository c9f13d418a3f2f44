/**
 * A TCP proxy that cuts, stalls, splits and refuses connections. It knows nothing of the protocol; an Observer sees the
 * bytes. Tests of other folders use it too, without a FaultModel.
 */
import type { Socket, TCPSocketListener } from "bun";
import type { Random } from "../../support/random.ts";

/** Decides the faults of a connection. A proxy without one makes no faults by itself. */
export interface FaultModel {
  /** Bytes that a new connection carries in both directions before it is cut. */
  bytesUntilCut(): number;
  /** Whether that cut is a reset rather than FIN. */
  cutsWithReset(): boolean;
  /** How many of `bytes` bytes are written at once. The rest follows after a pause. */
  piece(bytes: number): number;
  pauseMs(): number;
}

/** Random faults, until `isStopped`. */
export class RandomFaults implements FaultModel {
  readonly #random: Random;
  isStopped = false;

  constructor(random: Random) {
    this.#random = random;
  }

  /** One in twelve is cut within its first lines, the others later. */
  bytesUntilCut(): number {
    if (this.isStopped) return Number.POSITIVE_INFINITY;
    return this.#random.oneIn(12) ? this.#random.below(300) : this.#random.between(1_000, 30_000);
  }

  cutsWithReset(): boolean {
    return this.#random.oneIn(2);
  }

  piece(bytes: number): number {
    return this.isStopped || !this.#random.oneIn(4) ? bytes : this.#random.between(1, bytes);
  }

  pauseMs(): number {
    return this.#random.below(15);
  }
}

/** Sees the bytes of one connection before they are forwarded. */
export interface Observer {
  /** Bytes of the client. Returns what is forwarded in their place. */
  up(chunk: Buffer): Buffer;
  /** Bytes of the server. */
  down(chunk: Buffer): void;
  /** What the client has sent must not arrive after its end. */
  readonly isLoggingIn: boolean;
}

/** Above this many waiting bytes in one direction, their sender is not read. */
const WAITING_BYTES_MAX = 256 << 10;

type ProxySocket = Socket<Connection | null>;

/** One direction of a connection: bytes that were received and not yet forwarded. */
class Direction {
  readonly #faults: FaultModel | null;
  #from: ProxySocket | null = null;
  #to: ProxySocket | null = null;
  #waiting: Buffer[] = [];
  /** Number of waiting bytes. */
  #bytes = 0;
  /** The receiver's socket is full. */
  #full = false;
  /** The sender is not read. */
  #paused = false;
  /** The sender has closed its side. */
  #finished = false;
  #stallTimer: Timer | null = null;

  constructor(faults: FaultModel | null) {
    this.#faults = faults;
  }

  set from(socket: ProxySocket) {
    this.#from = socket;
  }

  set to(socket: ProxySocket) {
    this.#to = socket;
    this.#pump();
  }

  push(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#waiting.push(chunk);
    this.#bytes += chunk.length;
    if (this.#bytes > WAITING_BYTES_MAX && !this.#paused) {
      this.#paused = true;
      this.#from?.pause();
    }
    this.#pump();
  }

  drain(): void {
    this.#full = false;
    this.#pump();
  }

  /** The sender has closed its side: the receiver's side is closed after the last byte. */
  finish(): void {
    this.#finished = true;
    this.#pump();
  }

  /** Forwards nothing for `ms`. */
  stall(ms: number): void {
    if (this.#stallTimer !== null) clearTimeout(this.#stallTimer);
    this.#stallTimer = setTimeout(() => this.release(), ms);
  }

  release(): void {
    if (this.#stallTimer !== null) clearTimeout(this.#stallTimer);
    this.#stallTimer = null;
    this.#pump();
  }

  drop(): void {
    if (this.#stallTimer !== null) clearTimeout(this.#stallTimer);
    this.#stallTimer = this.#to = null;
    this.#waiting.length = 0;
  }

  #pump(): void {
    while (this.#to !== null && this.#stallTimer === null && !this.#full && this.#waiting.length > 0) {
      const next = this.#waiting[0]!;
      const count = this.#faults?.piece(next.length) ?? next.length;
      const taken = Math.max(0, this.#to.write(next, 0, count));
      this.#full = taken < count;
      this.#bytes -= taken;
      if (taken < next.length) this.#waiting[0] = next.subarray(taken);
      else this.#waiting.shift();
      if (!this.#full && count < next.length) this.stall(this.#faults?.pauseMs() ?? 0);
    }
    if (this.#paused && this.#bytes <= WAITING_BYTES_MAX && !this.#finished) {
      this.#paused = false;
      this.#from?.resume();
    }
    if (this.#finished && this.#waiting.length === 0) this.#to?.end();
  }
}

/** A connection through the proxy. */
class Connection {
  readonly up: Direction;
  readonly down: Direction;
  /** Bytes left until it is cut. */
  bytesLeft: number;
  readonly #observer: Observer | null;
  readonly #client: ProxySocket;
  #server: ProxySocket | null = null;
  #isClosed = false;

  constructor(client: ProxySocket, faults: FaultModel | null, observer: Observer | null) {
    this.#client = client;
    this.#observer = observer;
    this.up = new Direction(faults);
    this.down = new Direction(faults);
    this.up.from = this.down.to = client;
    this.bytesLeft = faults?.bytesUntilCut() ?? Number.POSITIVE_INFINITY;
  }

  /** The connection to the server is open. Returns false when the client's side has been closed meanwhile. */
  opened(server: ProxySocket): boolean {
    if (this.#isClosed) return false;
    this.#server = this.down.from = this.up.to = server;
    return true;
  }

  directionFrom(from: ProxySocket): Direction {
    return from === this.#client ? this.up : this.down;
  }

  observed(from: ProxySocket, chunk: Buffer): Buffer {
    if (from === this.#client) return this.#observer?.up(chunk) ?? chunk;
    this.#observer?.down(chunk);
    return chunk;
  }

  directionTo(to: ProxySocket): Direction {
    return to === this.#client ? this.down : this.up;
  }

  /** Ends stalls and the limit of bytes. */
  stopFaults(): void {
    this.bytesLeft = Number.POSITIVE_INFINITY;
    this.up.release();
    this.down.release();
  }

  /**
   * One side has closed. What it sent is still forwarded, except a login without a reply: its client has reset the
   * connection before it logs in again.
   */
  closed(socket: ProxySocket): void {
    if (this.#isClosed) return;
    if (socket === this.#client && this.#observer?.isLoggingIn === true) return this.cut(true);
    this.directionTo(socket).drop();
    if (socket === this.#client && this.#server === null) this.#isClosed = true;
    else this.directionFrom(socket).finish();
  }

  /** Closes both sides: with a reset, or with FIN after the bytes that were forwarded. */
  cut(reset: boolean): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.up.drop();
    this.down.drop();
    for (const socket of [this.#client, this.#server]) {
      if (reset) socket?.terminate();
      else socket?.end();
    }
  }
}

/** Where connections go: a port of this machine, or of another one. */
export type Target = number | { address: string; port: number };

/** A TCP proxy for a server. */
export class Proxy {
  readonly port: number;
  readonly #hostname: string;
  #listener: TCPSocketListener<Connection | null> | null;
  readonly #open = new Set<Connection>();
  readonly #faults: FaultModel | null;
  readonly #observe: () => Observer | null;
  #target: () => Target;
  /** New connections are closed at once. */
  refuses = false;
  /** Bytes of all connections together until the next cut; -1 for no limit. */
  bytesLeft = -1;
  /** Connections accepted, and connections cut by the limit of bytes. */
  accepted = 0;
  cuts = 0;

  /**
   * Forwards connections from `port` (0 for a free one) at that address to `target`, which is asked for each
   * connection.
   */
  constructor(
    target: number | (() => Target),
    faults: FaultModel | null = null,
    observe = (): Observer | null => null,
    port = 0,
    hostname = "127.0.0.1",
  ) {
    this.#target = typeof target === "number" ? () => target : target;
    this.#faults = faults;
    this.#observe = observe;
    this.#hostname = hostname;
    this.#listener = this.#listen(port);
    this.port = this.#listener.port;
  }

  #listen(port: number): TCPSocketListener<Connection | null> {
    return Bun.listen<Connection | null>({
      hostname: this.#hostname,
      port,
      data: null,
      socket: { ...this.#handlers, open: (client) => this.#accept(client) },
    });
  }

  /** Forwards new connections to another port. */
  moveTo(port: number): void {
    this.#target = () => port;
  }

  /** Whether the proxy listens. Open connections are not affected. */
  set listens(is: boolean) {
    if (is) this.#listener ??= this.#listen(this.port);
    else this.#listener?.stop();
    if (!is) this.#listener = null;
  }

  get connections(): Connection[] {
    return [...this.#open];
  }

  /** Resets every connection. */
  cut(): void {
    for (const connection of this.connections) connection.cut(true);
  }

  stop(): void {
    this.listens = false;
    this.cut();
  }

  readonly #handlers: Bun.SocketHandler<Connection | null> = {
    data: (socket, chunk) => {
      if (socket.data !== null) this.#forward(socket.data, socket, chunk);
    },
    drain: (socket) => socket.data?.directionTo(socket).drain(),
    close: (socket) => {
      socket.data?.closed(socket);
      if (socket.data !== null) this.#open.delete(socket.data);
    },
  };

  #accept(client: ProxySocket): void {
    if (this.refuses) return void client.terminate();
    this.accepted++;
    const connection = new Connection(client, this.#faults, this.#observe());
    client.data = connection;
    this.#open.add(connection);
    const target = this.#target();
    const { address, port } = typeof target === "number" ? { address: "127.0.0.1", port: target } : target;
    Bun.connect<Connection | null>({
      hostname: address,
      port,
      data: connection,
      socket: {
        ...this.#handlers,
        open: (server) => {
          if (!connection.opened(server)) server.terminate();
        },
        connectError: () => connection.cut(true),
      },
    }).catch(() => connection.cut(true));
  }

  #forward(connection: Connection, socket: ProxySocket, received: Buffer): void {
    const direction = connection.directionFrom(socket);
    const chunk = connection.observed(socket, received);
    const left = this.bytesLeft < 0 ? connection.bytesLeft : Math.min(this.bytesLeft, connection.bytesLeft);
    direction.push(chunk.length > left ? chunk.subarray(0, left) : chunk);
    if (chunk.length > left) {
      // The bytes before the cut still arrive.
      this.bytesLeft = -1;
      this.cuts++;
      return connection.cut(this.#faults?.cutsWithReset() ?? false);
    }
    connection.bytesLeft -= chunk.length;
    if (this.bytesLeft >= 0) this.bytesLeft -= chunk.length;
  }
}
