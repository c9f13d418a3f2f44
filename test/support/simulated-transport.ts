import type { Limits } from "../../src/limits.ts";
import { Connection, type Connections } from "../../src/net/connection.ts";
import type { Transport } from "../../src/net/transport.ts";
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
  /** Bytes that the transport accepts. */
  room = Number.POSITIVE_INFINITY;
  #output = "";

  constructor(
    limits: Partial<Limits> = {},
    world = new World(["alice", "bob"], { limits }),
    all?: Connections,
    isEncrypted = false,
    address = "192.0.2.1",
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
      write,
      send: () => 0,
      pause: () => void (this.reading = false),
      resume: () => void (this.reading = true),
      shutdown: () => void (this.shut = true),
      end: () => void (this.shut = this.hungUp = true),
      closed: () => {},
      release: () => {},
    };
    this.world.begin();
    this.connection = new Connection(this.all, transport, address);
    this.world.endTurns();
  }

  /** Bytes arrive, and the turn ends. */
  feed(bytes: string): void {
    this.world.begin();
    this.connection.data(Buffer.from(bytes, "latin1"));
    this.world.endTurns();
  }

  /** Sends lines; returns the lines that were written since the last call. */
  say(...lines: string[]): string[] {
    this.feed(lines.map((line) => `${line}\n`).join(""));
    return this.read();
  }

  read(): string[] {
    const lines = this.#output.split("\n");
    this.#output = lines.pop()!;
    return lines;
  }
}
