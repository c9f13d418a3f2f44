import type { Transport } from "../../src/net/transport.ts";
import type { Random } from "../support/random.ts";

/** Tells whether the server was killed, and goes on only because it is in the middle of a turn. */
export interface Grave {
  readonly isGone: boolean;
  readonly isDead: boolean;
}

/** The server's end of a connection: what the runtime calls. */
export interface ServerEnd {
  data(chunk: Buffer): void;
  drain(): void;
  end(): void;
  closed(): void;
}

/** The client's end. */
export interface ClientEnd {
  heard(link: Link, bytes: string): void;
  closed(link: Link): void;
}

const NOBODY: ClientEnd = { heard: () => {}, closed: () => {} };

/**
 * One connection, both ways, as TCP has it: bytes that one side's kernel took are on their way until the other side
 * reads them, in pieces of any size, or are lost when it is cut. The methods named like a socket's are the server's
 * socket. Bytes are latin1.
 */
export class Link implements Transport {
  readonly isEncrypted = false;
  readonly remoteAddress = "192.0.2.1";
  server: ServerEnd | null = null;
  client: ClientEnd;
  /** Bytes on their way: up to the server, down to the client. */
  up = "";
  down = "";
  /** How many bytes the server's kernel holds for it. */
  readonly room: number;
  /** Nothing is delivered for a while. */
  stalled = false;
  /**
   * What the server's kernel took always arrives, even when the client is gone: to a plain recipient the promise
   * reaches until the kernel has taken the message, so nothing beyond that is to be lost here.
   */
  faithful = false;
  /** It is not cut. */
  trusted = false;
  #full = false;
  #reading = true;
  /** No bytes pass any more that were not on their way when it was cut. */
  #cut = false;
  /** Bytes that the server's kernel took since: nobody will ever read them. */
  #swallowed = 0;
  /** Each side has said that it says nothing more; the other side has heard it. */
  #upEnded = false;
  #upEndHeard = false;
  #downEnded = false;
  /** Each side has let go of its socket, or will be told that the other one did. */
  #serverOpen = true;
  #serverTold = false;
  #tellServer = false;
  #clientOpen = true;
  #tellClient = false;

  readonly #grave: Grave;

  constructor(client: ClientEnd, room: number, grave: Grave) {
    this.client = client;
    this.room = room;
    this.#grave = grave;
  }

  /** Nothing will happen on it any more. */
  get over(): boolean {
    return this.#serverTold && !this.#downIsBusy;
  }

  /** Something is on its way. */
  get busy(): boolean {
    const up = this.#reading && !this.#serverTold && (this.up !== "" || (this.#upEnded && !this.#upEndHeard));
    const closes = this.#tellServer && !this.#serverTold;
    return up || closes || this.#downIsBusy;
  }

  get #downIsBusy(): boolean {
    if (this.#cut && !this.faithful && !this.#tellClient) return false;
    return this.down !== "" || (this.#clientOpen && (this.#tellClient || this.#downEnded));
  }

  /** It was cut, whoever knows. */
  get severed(): boolean {
    return this.#cut;
  }

  // The server's transport.

  write(bytes: Buffer, offset: number, length: number): number {
    if (this.#grave.isGone) return length;
    if (!this.#serverOpen) return -1;
    const count = Math.max(0, Math.min(length, this.room - this.down.length - this.#swallowed));
    if (this.#cut && !this.faithful) this.#swallowed += count;
    else this.down += bytes.toString("latin1", offset, offset + count);
    this.#full = count < length;
    return count;
  }

  /** The fast way takes nothing. */
  send(): number {
    return 0;
  }

  shutdown(): void {
    if (this.#grave.isDead) return;
    this.#downEnded = true;
  }

  end(): void {
    if (!this.#grave.isDead) this.#end();
  }

  #end(): void {
    this.#downEnded = true;
    this.#serverOpen = false;
    this.#tellServer = true;
  }

  /** The server's process ends. */
  serverDies(): void {
    this.#end();
    this.#serverTold = true;
    this.server?.closed();
  }

  /** The server's process is killed: of what its kernel has, any part may still arrive. */
  serverKilled(random: Random): void {
    this.server = null;
    this.#end();
    this.#serverTold = true;
    if (this.faithful) this.takeDown(Number.POSITIVE_INFINITY);
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
    if (this.#clientOpen && !this.#cut) this.up += bytes;
  }

  /** The client says nothing more, and hears nothing more. */
  hangUp(): void {
    this.#upEnded = true;
    this.#leave();
  }

  /** The client's program is killed: of what it said any part may still arrive. */
  kill(random: Random): void {
    this.up = this.up.slice(0, random.below(this.up.length + 1));
    this.#upEnded = true;
    this.#leave();
  }

  #leave(): void {
    this.#clientOpen = false;
    if (this.faithful) return;
    this.client = NOBODY;
    this.down = "";
  }

  // The network.

  /** Cut at any byte in both directions. A side that is not told finds out when the other one's time is over. */
  cut(random: Random, tellServer: boolean, tellClient: boolean): void {
    this.#cut = true;
    this.up = this.up.slice(0, random.below(this.up.length + 1));
    if (!this.faithful) this.down = tellClient ? this.down.slice(0, random.below(this.down.length + 1)) : "";
    this.#tellServer ||= tellServer || this.faithful;
    this.#tellClient = this.#clientOpen && (tellClient || this.faithful);
  }

  /** The server reads so many bytes; when there are none left, it hears how the connection ended. */
  deliverUp(count: number): void {
    const { server } = this;
    if (server === null || this.#serverTold) return;
    if (this.up !== "" && this.#reading && this.#serverOpen) {
      const piece = this.up.slice(0, count);
      this.up = this.up.slice(count);
      server.data(Buffer.from(piece, "latin1"));
    } else if (this.#tellServer) {
      this.#serverTold = true;
      this.#serverOpen = false;
      server.closed();
    } else if (this.#upEnded && !this.#upEndHeard && this.#reading) {
      this.#upEndHeard = true;
      if (this.#downEnded) this.#tellServer = true;
      server.end();
    }
  }

  /** The client reads so many bytes; when there are none left, it hears how the connection ended. */
  deliverDown(count: number): void {
    if (!this.#downIsBusy) return;
    if (this.down !== "") {
      this.takeDown(count);
      if (this.#full && this.#serverOpen && !this.#cut) {
        this.#full = false;
        this.server?.drain();
      }
    } else if (this.#clientOpen) {
      this.#tellClient = this.#clientOpen = false;
      if (!this.#cut) this.#upEnded = true;
      this.client.closed(this);
    }
  }

  /** The client reads, and the server does not hear of the room. */
  takeDown(count: number): void {
    const piece = this.down.slice(0, count);
    this.down = this.down.slice(count);
    this.client.heard(this, piece);
  }
}
