import type { Socket, TCPSocketListener } from "bun";
import type { Random } from "../../support/random.ts";

/** What befalls the connections of a proxy; without one they are left alone. */
export interface FaultModel {
  /** How many bytes a new connection carries, both ways together, before it is cut. */
  bytesUntilCut(): number;
  /** Whether that cut is a reset, rather than an end. */
  cutsWithReset(): boolean;
  /** How many of so many bytes go on at once; the others after a pause. */
  piece(bytes: number): number;
  pauseMs(): number;
}

/** What the proxies do to connections, from one random generator, until it is calm. */
export class RandomFaults implements FaultModel {
  readonly #random: Random;
  isStopped = false;

  constructor(random: Random) {
    this.#random = random;
  }

  /** Some die within their first lines, the others after some conversation. */
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

/** Sees what goes by on one connection, before it goes on. */
export interface Observer {
  /** Of the client; returns what goes on in its place. */
  up(chunk: Buffer): Buffer;
  /** Of the server. */
  down(chunk: Buffer): void;
}

/** Bytes that may wait in one direction; beyond them their sender is not read. */
const WAITING_BYTES_MAX = 256 << 10;

type ProxySocket = Socket<Connection | null>;

/** One direction of a connection: what came in and did not go out yet. */
class Direction {
  readonly #faults: FaultModel | null;
  #from: ProxySocket | null = null;
  #to: ProxySocket | null = null;
  #waiting: Buffer[] = [];
  #bytes = 0;
  #full = false;
  #paused = false;
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

  /** No more comes: the other side hears so behind the last byte. */
  finish(): void {
    this.#finished = true;
    this.#pump();
  }

  /** Nothing goes out for so long. */
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
  /** How many bytes it still carries before it is cut. */
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

  /** The way to the server is open; false when it is not wanted any more. */
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

  /** Whatever held it up is over, and it lives as long as its sides want. */
  stopFaults(): void {
    this.bytesLeft = Number.POSITIVE_INFINITY;
    this.up.release();
    this.down.release();
  }

  /** One side is gone: what it said still reaches the other. */
  closed(socket: ProxySocket): void {
    if (this.#isClosed) return;
    this.directionTo(socket).drop();
    if (socket === this.#client && this.#server === null) this.#isClosed = true;
    else this.directionFrom(socket).finish();
  }

  /** Both sides lose it: with a reset nothing more arrives, else what was let through does. */
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

/** A TCP proxy before a server on this machine that can lose, stall, tear and refuse connections. */
export class Proxy {
  readonly port: number;
  #listener: TCPSocketListener<Connection | null> | null;
  readonly #open = new Set<Connection>();
  readonly #faults: FaultModel | null;
  readonly #observe: () => Observer | null;
  #serverPort: number;
  /** New connections are closed at once. */
  refuses = false;
  /** How many bytes all connections together let through before the next cut; -1 for no limit. */
  bytesLeft = -1;
  /** Connections that it took, and that were cut for the bytes they had carried. */
  accepted = 0;
  cuts = 0;

  /** Before the server at that port, it listens at a port of its own; 0 takes a free one. */
  constructor(serverPort: number, faults: FaultModel | null = null, observe = (): Observer | null => null, port = 0) {
    this.#serverPort = serverPort;
    this.#faults = faults;
    this.#observe = observe;
    this.#listener = this.#listen(port);
    this.port = this.#listener.port;
  }

  #listen(port: number): TCPSocketListener<Connection | null> {
    return Bun.listen<Connection | null>({
      hostname: "127.0.0.1",
      port,
      data: null,
      socket: { ...this.#handlers, open: (client) => this.#accept(client) },
    });
  }

  /** The server is somewhere else from now on. */
  moveTo(port: number): void {
    this.#serverPort = port;
  }

  /** Whether anybody listens at its port; the connections that are there go on. */
  set listens(is: boolean) {
    if (is) this.#listener ??= this.#listen(this.port);
    else this.#listener?.stop();
    if (!is) this.#listener = null;
  }

  get connections(): Connection[] {
    return [...this.#open];
  }

  /** Cuts every connection, without a word to either side. */
  cut(): void {
    for (const connection of this.connections) connection.cut(true);
  }

  stop(): void {
    this.listens = false;
    this.cut();
  }

  readonly #handlers: Bun.SocketHandler<Connection | null> = {
    data: (socket, chunk) => {
      if (socket.data !== null) this.#pass(socket.data, socket, chunk);
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
    Bun.connect<Connection | null>({
      hostname: "127.0.0.1",
      port: this.#serverPort,
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

  #pass(connection: Connection, socket: ProxySocket, came: Buffer): void {
    const direction = connection.directionFrom(socket);
    const chunk = connection.observed(socket, came);
    const left = this.bytesLeft < 0 ? connection.bytesLeft : Math.min(this.bytesLeft, connection.bytesLeft);
    direction.push(chunk.length > left ? chunk.subarray(0, left) : chunk);
    if (chunk.length > left) {
      // Cut in the middle of what was sent: the bytes before the cut still arrive.
      this.bytesLeft = -1;
      this.cuts++;
      return connection.cut(this.#faults?.cutsWithReset() ?? false);
    }
    connection.bytesLeft -= chunk.length;
    if (this.bytesLeft >= 0) this.bytesLeft -= chunk.length;
  }
}
