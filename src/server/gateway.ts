/**
 * What a spare does with clients: it relays them to the owners of their shards. It has the parts of a server that
 * decide which connections are accepted and what is answered before a login, and no users, sessions and messages. When
 * the spare has become an owner, the relays that it has go on.
 */
import { Passwords } from "../auth/passwords.ts";
import { Admission, fitDescriptors } from "../net/admission.ts";
import type { Connection } from "../net/connection.ts";
import type { Relays } from "../net/relays.ts";
import { type ServerHandlers, socketHandlers } from "../net/socket-handlers.ts";
import type { WebPort } from "../net/web-client.ts";
import type { Successor, Transport } from "../net/transport.ts";
import { descriptorsMax } from "../runtime/kernel.ts";
import { openStore } from "../storage/recovery.ts";
import { LoggedCounters } from "./audit-log.ts";
import type { BoundedLog } from "./bounded-log.ts";
import type { Config } from "./config.ts";
import { type Clock, type Core, createCore } from "./core.ts";
import { Maintenance } from "./maintenance.ts";
import type { Measured } from "./metrics.ts";
import { DESCRIPTORS_PER_RELAY, type Server } from "./server.ts";

export class Gateway {
  readonly relays: Relays;
  readonly handlers: ServerHandlers;
  /** What the metrics are read from. */
  readonly measured: Measured;
  readonly #core: Core;
  readonly #admission: Admission;
  readonly #maintenance: Maintenance;

  constructor(
    config: Config,
    newRelays: (core: Pick<Core, "chat" | "turn">) => Relays,
    log: BoundedLog,
    clock: Clock,
    webPort: WebPort | null = null,
  ) {
    const counters = new LoggedCounters(log);
    const { store } = openStore(":memory:", "none", { salvage: false, unixMs: clock.unixMs(), progress: () => {} });
    const report = (error: unknown): void =>
      log.error({ event: "internal_error", err: error }, "internal error; the connection is closed");
    this.#core = createCore({
      clock,
      store,
      users: [],
      passwords: new Passwords(store),
      newToken: () => {
        throw new Error("a gateway has no sessions");
      },
      idleTimeoutMs: config.idleTimeoutMs,
      blockMs: config.blockMs,
      lockoutScope: config.lockoutScope,
      limits: fitDescriptors(config.limits, Math.floor(descriptorsMax() / DESCRIPTORS_PER_RELAY)),
      report,
      observer: counters,
    });
    const { chat, turn, connections } = this.#core;
    const beginTurn = (): void => turn.begin();
    chat.loginRelay = this.relays = newRelays(this.#core);
    this.#admission = new Admission(connections, config.proxyFrom, log);
    this.#maintenance = new Maintenance(this.#core, store, this.#admission, log, report);
    this.handlers = socketHandlers(beginTurn, this.#admission, report, webPort);
    this.measured = { counters, core: this.#core, admission: this.#admission, store, links: null };
  }

  start(): void {
    this.#maintenance.start();
  }

  /** Ends all connections. */
  stop(): void {
    this.relays.stop();
    for (const pending of [...this.#admission.pending]) pending.hangUp();
    for (const connection of [...this.#core.connections.open]) connection.hangUp();
    this.#maintenance.stop();
  }

  /**
   * From now on `server` serves clients in this process; it gets those that have no session yet. The others stay here
   * until they end.
   */
  handOver(server: Server): void {
    const lines = this.relays.giveUp();
    server.measured.admission.others = () => this.#core.connections.open.size;
    const relayed = new Set([...this.relays.all].map(({ connection }) => connection));
    for (const connection of [...this.#core.connections.open]) {
      if (connection.state !== "unauthenticated" || !connection.drained || relayed.has(connection)) continue;
      connection.relayTo(new Adoption(server, connection, lines.get(connection) ?? null));
    }
  }
}

/** The way of one connection to another core of the same process. */
class Adoption implements Successor {
  readonly heldBytes = 0;
  readonly #server: Server;
  readonly #connection: Connection;
  /** The last line that was taken from it, and not answered; null when all were. */
  readonly #line: Buffer | null;

  constructor(server: Server, connection: Connection, line: Buffer | null) {
    this.#server = server;
    this.#connection = connection;
    this.#line = line;
  }

  begin(transport: Transport, unread: Uint8Array[], hasEnded: boolean): void {
    const line = this.#line === null ? [] : [Buffer.concat([this.#line, Buffer.from("\n")])];
    this.#connection.closed();
    this.#server.adopt(transport, this.#connection, [...line, ...unread], hasEnded);
  }

  data(): void {}

  drain(): void {}

  end(): void {}

  closed(): void {}

  hangUp(): void {}
}
