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
  calm = false;

  constructor(random: Random) {
    this.#random = random;
  }

  /** Some die within their first lines, the others after some conversation. */
  bytesUntilCut(): number {
    if (this.calm) return Number.POSITIVE_INFINITY;
    return this.#random.oneIn(12) ? this.#random.below(300) : this.#random.between(1_000, 30_000);
  }

  cutsWithReset(): boolean {
    return this.#random.oneIn(2);
  }

  piece(bytes: number): number {
    return this.calm || !this.#random.oneIn(4) ? bytes : this.#random.between(1, bytes);
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

type Half = Socket<Connection | null>;

/** One direction of a connection: what came in and did not go out yet. */
class Lane {
  readonly #weather: FaultModel | null;
  #from: Half | null = null;
  #to: Half | null = null;
  #waiting: Buffer[] = [];
  #bytes = 0;
  #full = false;
  #paused = false;
  #finished = false;
  #hold: Timer | null = null;

  constructor(weather: FaultModel | null) {
    this.#weather = weather;
  }

  set from(socket: Half) {
    this.#from = socket;
  }

  set to(socket: Half) {
    this.#to = socket;
    this.#pump();
  }

  take(chunk: Buffer): void {
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
    if (this.#hold !== null) clearTimeout(this.#hold);
    this.#hold = setTimeout(() => this.release(), ms);
  }

  release(): void {
    if (this.#hold !== null) clearTimeout(this.#hold);
    this.#hold = null;
    this.#pump();
  }

  drop(): void {
    if (this.#hold !== null) clearTimeout(this.#hold);
    this.#hold = this.#to = null;
    this.#waiting.length = 0;
  }

  #pump(): void {
    while (this.#to !== null && this.#hold === null && !this.#full && this.#waiting.length > 0) {
      const next = this.#waiting[0]!;
      const count = this.#weather?.piece(next.length) ?? next.length;
      const taken = Math.max(0, this.#to.write(next, 0, count));
      this.#full = taken < count;
      this.#bytes -= taken;
      if (taken < next.length) this.#waiting[0] = next.subarray(taken);
      else this.#waiting.shift();
      if (!this.#full && count < next.length) this.stall(this.#weather?.pauseMs() ?? 0);
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
  readonly up: Lane;
  readonly down: Lane;
  /** How many bytes it still carries before it is cut. */
  bytesLeft: number;
  readonly #observer: Observer | null;
  readonly #client: Half;
  #server: Half | null = null;
  #over = false;

  constructor(client: Half, weather: FaultModel | null, observer: Observer | null) {
    this.#client = client;
    this.#observer = observer;
    this.up = new Lane(weather);
    this.down = new Lane(weather);
    this.up.from = this.down.to = client;
    this.bytesLeft = weather?.bytesUntilCut() ?? Number.POSITIVE_INFINITY;
  }

  /** The way to the server is open; false when it is not wanted any more. */
  opened(server: Half): boolean {
    if (this.#over) return false;
    this.#server = this.down.from = this.up.to = server;
    return true;
  }

  lane(from: Half): Lane {
    return from === this.#client ? this.up : this.down;
  }

  observed(from: Half, chunk: Buffer): Buffer {
    if (from === this.#client) return this.#observer?.up(chunk) ?? chunk;
    this.#observer?.down(chunk);
    return chunk;
  }

  laneTo(to: Half): Lane {
    return to === this.#client ? this.down : this.up;
  }

  /** Whatever held it up is over, and it lives as long as its sides want. */
  calm(): void {
    this.bytesLeft = Number.POSITIVE_INFINITY;
    this.up.release();
    this.down.release();
  }

  /** One side is gone: what it said still reaches the other. */
  closed(half: Half): void {
    if (this.#over) return;
    this.laneTo(half).drop();
    if (half === this.#client && this.#server === null) this.#over = true;
    else this.lane(half).finish();
  }

  /** Both sides lose it: with a reset nothing more arrives, else what was let through does. */
  cut(reset: boolean): void {
    if (this.#over) return;
    this.#over = true;
    this.up.drop();
    this.down.drop();
    for (const half of [this.#client, this.#server]) {
      if (reset) half?.terminate();
      else half?.end();
    }
  }
}

/** A TCP proxy before a server on this machine that can lose, stall, tear and refuse connections. */
export class Proxy {
  readonly port: number;
  #listener: TCPSocketListener<Connection | null> | null;
  readonly #open = new Set<Connection>();
  readonly #weather: FaultModel | null;
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
  constructor(serverPort: number, weather: FaultModel | null = null, observe = (): Observer | null => null, port = 0) {
    this.#serverPort = serverPort;
    this.#weather = weather;
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
    data: (half, chunk) => {
      if (half.data !== null) this.#pass(half.data, half, chunk);
    },
    drain: (half) => half.data?.laneTo(half).drain(),
    close: (half) => {
      half.data?.closed(half);
      if (half.data !== null) this.#open.delete(half.data);
    },
  };

  #accept(client: Half): void {
    if (this.refuses) return void client.terminate();
    this.accepted++;
    const connection = new Connection(client, this.#weather, this.#observe());
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

  #pass(connection: Connection, half: Half, came: Buffer): void {
    const lane = connection.lane(half);
    const chunk = connection.observed(half, came);
    const left = this.bytesLeft < 0 ? connection.bytesLeft : Math.min(this.bytesLeft, connection.bytesLeft);
    lane.take(chunk.length > left ? chunk.subarray(0, left) : chunk);
    if (chunk.length > left) {
      // Cut in the middle of what was sent: the bytes before the cut still arrive.
      this.bytesLeft = -1;
      this.cuts++;
      return connection.cut(this.#weather?.cutsWithReset() ?? false);
    }
    connection.bytesLeft -= chunk.length;
    if (this.bytesLeft >= 0) this.bytesLeft -= chunk.length;
  }
}
