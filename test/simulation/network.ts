import type { Transport } from "../../src/net/transport.ts";
import type { DialHandlers, DialedSocket } from "../../src/net/dial.ts";
import type { Random } from "../support/random.ts";

/**
 * Whether the server process is alive. A killed server still runs to the end of its turn here; nothing that it writes
 * from then on has an effect.
 */
export interface ServerLife {
  readonly isGone: boolean;
  readonly isDead: boolean;
  /** None of its code runs; its kernel still takes and sends bytes. */
  readonly isPaused?: boolean;
}

/** The server's end of a connection: the handlers that the runtime calls. */
export interface ServerEnd {
  data(chunk: Buffer): void;
  drain(): void;
  end(): void;
  closed(): void;
}

/** The client's end. */
export interface ClientEnd {
  data(link: Link, bytes: string): void;
  closed(link: Link): void;
}

const NOBODY: ClientEnd = { data: () => {}, closed: () => {} };

/**
 * One TCP connection. Bytes that one side's kernel took are in transit until the other side reads them, in pieces of
 * any size; they are lost when the connection is cut. Methods with the names of a socket's are the server's socket.
 * Bytes are latin1.
 */
export class Link implements Transport {
  readonly isEncrypted = false;
  readonly isWebSocket = false;
  /** Its bytes are frames; see `WebLink`. */
  readonly isWeb: boolean = false;
  readonly remoteAddress = "192.0.2.1";
  server: ServerEnd | null = null;
  client: ClientEnd;
  /** Bytes in transit: up to the server, down to the client. */
  up = "";
  down = "";
  /** Size of the server's send buffer. */
  readonly room: number;
  /** Nothing is delivered for a while. */
  stalled = false;
  /**
   * Bytes that the server's kernel took always arrive, also when the client is gone. For connections of plain sessions:
   * their messages are only guaranteed until the kernel has taken them, so the network must lose none here.
   */
  lossless = false;
  /** The client takes bytes from its kernel. */
  clientReads: () => boolean = () => true;
  /** The network does not cut it. */
  protected = false;
  #full = false;
  #reading = true;
  /** Only bytes that were in transit at the cut still arrive. */
  #cut = false;
  /** Bytes in that direction vanish, and neither side gets an event. Null: all bytes arrive. */
  #lost: "up" | "down" | null = null;
  /** Bytes in the server's send buffer since the cut; they are never read. */
  #swallowed = 0;
  /** FIN was sent in that direction; the server has read it. */
  #upEnded = false;
  #upEndRead = false;
  #downEnded = false;
  /** Whether each socket is open, or will get the event that the other one has closed. */
  #serverOpen = true;
  #serverClosed = false;
  #serverWillClose = false;
  #clientOpen = true;
  #clientWillClose = false;

  readonly #life: ServerLife;

  constructor(client: ClientEnd, room: number, grave: ServerLife) {
    this.client = client;
    this.room = room;
    this.#life = grave;
  }

  /** Nothing happens on it any longer. */
  get over(): boolean {
    return this.#serverClosed && !this.#downIsBusy;
  }

  /** Bytes or an event are in transit. */
  get busy(): boolean {
    const up = this.#reading && !this.#serverClosed && (this.up !== "" || this.#upEndArrives);
    const closes = this.#serverWillClose && !this.#serverClosed;
    return up || closes || this.#downIsBusy;
  }

  get #upEndArrives(): boolean {
    return this.#upEnded && !this.#upEndRead && this.#lost !== "up";
  }

  get #downIsBusy(): boolean {
    if (this.#lost === "down") return false;
    if (!this.clientReads() || (this.#cut && !this.lossless && !this.#clientWillClose)) return false;
    return this.down !== "" || (this.#clientOpen && (this.#clientWillClose || this.#downEnded));
  }

  /** It was cut, whether or not a side has noticed. */
  get isCut(): boolean {
    return this.#cut;
  }

  /** What the client has not read. */
  get unread(): string {
    return this.down;
  }

  // The server's transport.

  write(bytes: Buffer, offset: number, length: number): number {
    if (this.#life.isGone) return length;
    if (!this.#serverOpen) return -1;
    const count = Math.max(0, Math.min(length, this.room - this.down.length - this.#swallowed));
    if ((this.#cut && !this.lossless) || this.#lost === "down") this.#swallowed += count;
    else this.down += bytes.toString("latin1", offset, offset + count);
    this.#full = count < length;
    return count;
  }

  /** The fast way takes nothing. */
  send(): number {
    return 0;
  }

  shutdown(): void {
    if (this.#life.isDead) return;
    this.#downEnded = true;
  }

  end(): void {
    if (!this.#life.isDead) this.#end();
  }

  reset(): void {
    this.end();
  }

  handOver(): void {}

  #end(): void {
    this.#downEnded = true;
    this.#serverOpen = false;
    this.#serverWillClose = true;
  }

  /** The server process exits. */
  serverExits(): void {
    this.#end();
    this.#serverClosed = true;
    this.server?.closed();
  }

  /** The server process is killed: any prefix of its send buffer still arrives. */
  serverKilled(random: Random): void {
    this.server = null;
    this.#end();
    this.#serverClosed = true;
    if (this.lossless) this.takeDown(Number.POSITIVE_INFINITY);
    else this.down = this.down.slice(0, random.below(this.down.length + 1));
  }

  pause(): void {
    this.#reading = false;
  }

  resume(): void {
    this.#reading = true;
  }

  closed(): void {}

  release(): void {}

  // The client's socket.

  say(bytes: string): void {
    if (this.#clientOpen && !this.#cut && this.#lost !== "up") this.up += bytes;
  }

  /** The client closes its socket. */
  hangUp(): void {
    this.#upEnded = true;
    this.#leave();
  }

  /** The client process is killed: any prefix of its send buffer still arrives. */
  kill(random: Random): void {
    this.up = this.up.slice(0, random.below(this.up.length + 1));
    this.#upEnded = true;
    this.#leave();
  }

  #leave(): void {
    this.#clientOpen = false;
    if (this.lossless) return;
    this.client = NOBODY;
    this.down = "";
  }

  // The network.

  /** Cuts both directions at any byte. A side that gets no event notices the cut by its timeout only. */
  cut(random: Random, closesServer: boolean, closesClient: boolean): void {
    this.#cut = true;
    this.up = this.up.slice(0, random.below(this.up.length + 1));
    if (!this.lossless) this.down = closesClient ? this.down.slice(0, random.below(this.down.length + 1)) : "";
    this.#serverWillClose ||= closesServer || this.lossless;
    this.#clientWillClose = this.#clientOpen && (closesClient || this.lossless);
  }

  /**
   * The network drops all packets in that direction, as a firewall does that has forgotten the connection. The sender
   * of the other direction receives no acknowledgement, so its send buffer stays full.
   */
  lose(direction: "up" | "down"): void {
    this.#lost = direction;
    this[direction] = "";
  }

  get lost(): "up" | "down" | null {
    return this.#lost;
  }

  /** The server reads `count` bytes, or the end of the connection after them. */
  deliverUp(count: number): void {
    const { server } = this;
    if (server === null || this.#serverClosed || this.#life.isPaused) return;
    if (this.up !== "" && this.#reading && this.#serverOpen) {
      const piece = this.up.slice(0, count);
      this.up = this.up.slice(count);
      server.data(Buffer.from(piece, "latin1"));
    } else if (this.#serverWillClose) {
      this.#serverClosed = true;
      this.#serverOpen = false;
      server.closed();
    } else if (this.#upEndArrives && this.#reading) {
      this.#upEndRead = true;
      if (this.#downEnded) this.#serverWillClose = true;
      server.end();
    }
  }

  /** The client reads `count` bytes, or the end of the connection after them. */
  deliverDown(count: number): void {
    if (!this.#downIsBusy) return;
    if (this.down !== "") {
      if (this.#full && this.#life.isPaused) return; // It could not be told that there is room again.
      this.takeDown(count);
      if (this.#full && this.#serverOpen && !this.#cut) {
        this.#full = false;
        this.server?.drain();
      }
    } else if (this.#clientOpen) {
      this.#clientWillClose = this.#clientOpen = false;
      if (!this.#cut) this.#upEnded = true;
      this.client.closed(this);
    }
  }

  /** The client reads, without a drain event for the server. */
  takeDown(count: number): void {
    const piece = this.down.slice(0, count);
    this.down = this.down.slice(count);
    if (this.#lost === "up") this.#swallowed += piece.length;
    this.client.data(this, piece);
  }
}

/** The server's end of a call; without a link until the client answers. */
export class DialedCall implements DialedSocket {
  readonly port: number;
  readonly #handlers: DialHandlers;
  #link: Link | null = null;
  /** The server has given it up, or the connection failed. */
  isClosed = false;

  constructor(port: number, handlers: DialHandlers) {
    this.port = port;
    this.#handlers = handlers;
  }

  /** The client answers. */
  open(link: Link): void {
    this.#link = link;
    link.server = {
      data: (chunk) => this.#handlers.data(chunk),
      drain: () => this.#handlers.drain(),
      // The runtime closes a socket when the other side ends.
      end: () => link.end(),
      closed: () => this.#closed(),
    };
    this.#handlers.open();
  }

  write(bytes: Buffer, start: number, count: number): number {
    return this.#link?.write(bytes, start, count) ?? 0;
  }

  end(): void {
    if (this.#link === null) this.#closed();
    else this.#link.serverExits();
  }

  terminate(): void {
    this.end();
  }

  #closed(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.#handlers.closed();
  }
}
