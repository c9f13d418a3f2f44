import type { Limits } from "../../src/limits.ts";
import { Connection, type Connections } from "../../src/net/connection.ts";
import type { SocketEvents, Transport } from "../../src/net/transport.ts";
import { World } from "./chat.ts";

/** A connection on a simulated transport, under the clock of its world. */
export class Wire {
  readonly world: World;
  readonly all: Connections;
  readonly connection: Connection;
  /** The transport is not paused. */
  reading = true;
  /** Our side is closed. */
  shut = false;
  /** Both sides are closed. */
  hungUp = false;
  wasReset = false;
  /** Receives the events of the socket. */
  receiver: SocketEvents;
  /** Bytes that the transport accepts. */
  room = Number.POSITIVE_INFINITY;
  #output = "";

  constructor(
    limits: Partial<Limits> = {},
    world = new World(["alice", "bob"], { limits }),
    all?: Connections,
    isEncrypted = false,
    address = "192.0.2.1",
    isRelayed = false,
  ) {
    this.world = world;
    this.all = all ?? world.connections;
    const write = (bytes: Buffer, start: number, count: number): number => {
      const taken = Math.min(this.room, count);
      this.room -= taken;
      this.#output += bytes.toString("latin1", start, start + taken);
      return taken;
    };
    const transport: Transport = {
      isEncrypted,
      isWebSocket: false,
      write,
      send: () => 0,
      pause: () => void (this.reading = false),
      resume: () => void (this.reading = true),
      shutdown: () => void (this.shut = true),
      end: () => void (this.shut = this.hungUp = true),
      reset: () => void (this.wasReset = this.shut = this.hungUp = true),
      handOver: (receiver) => void (this.receiver = receiver),
      closed: () => {},
      release: () => {},
    };
    this.world.begin();
    this.connection = new Connection(this.all, transport, address, !isRelayed, isRelayed ? "elsewhere" : null);
    this.receiver = this.connection;
    this.world.endTurns();
  }

  /** Bytes arrive, and the turn ends. */
  feed(bytes: string): void {
    this.event(() => this.receiver.data(Buffer.from(bytes, "latin1")));
  }

  /** Something happens to the socket, and the turn ends. */
  event(happen: () => void): void {
    this.world.begin();
    happen();
    this.world.endTurns();
  }

  /** Sends lines; returns the lines that were written since the last call. */
  say(...lines: string[]): string[] {
    this.feed(lines.map((line) => `${line}\n`).join(""));
    return this.read();
  }

  /** All bytes that were written since the last call. */
  take(): string {
    const output = this.#output;
    this.#output = "";
    return output;
  }

  read(): string[] {
    const lines = this.#output.split("\n");
    this.#output = lines.pop()!;
    return lines;
  }
}
