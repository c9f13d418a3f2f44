import pino from "pino";
import { type Config, parseConfig } from "../../src/server/config.ts";
import { Server } from "../../src/server/server.ts";

export const USERS = [
  { name: "columbia", password: "116bway" },
  { name: "SEAS", password: "summerisover" },
  { name: "foobar", password: "passpass" },
];

/** A real server in this process, on a free port of loopback, that keeps nothing. */
export class LocalServer {
  readonly port: number;
  readonly #server: Server;

  constructor(overrides: Partial<Config> = {}) {
    const config = { ...parseConfig([])!, host: "127.0.0.1", port: 0, data: ":memory:", ...overrides };
    this.#server = new Server(config, { users: USERS, sample: false }, pino({ level: "silent" }));
    this.port = Number(this.#server.listen().split(":").at(-1));
  }

  stop(): Promise<void> {
    return this.#server.stop();
  }
}
