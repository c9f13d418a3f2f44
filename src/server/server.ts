/**
 * A running server: listens, applies new credentials and certificates, drains, and stops in order. The
 * chat and its parts are composed in core.ts, periodic work is in maintenance.ts.
 */
import { randomBytes } from "node:crypto";
import { tokenPrefix } from "../protocol/shard.ts";
import type { NeighbourLinks } from "../net/neighbour-links.ts";
import type { Relays } from "../net/relays.ts";
import type { Administered } from "../admin/commands.ts";
import type { Credentials } from "../auth/credentials.ts";
import { Passwords } from "../auth/passwords.ts";
import type { Peer } from "../chat/session.ts";
import { DRAIN_SECONDS, LINGER_MS, type Limits } from "../limits.ts";
import { Admission, fitDescriptors } from "../net/admission.ts";
import type { Certificate } from "../net/certificate.ts";
import { Connection } from "../net/connection.ts";
import { socketHandlers } from "../net/socket-handlers.ts";
import type { Transport } from "../net/transport.ts";
import { descriptorsMax } from "../runtime/kernel.ts";
import { StoreError } from "../storage/database.ts";
import type { Store } from "../storage/store.ts";
import { TICK_MS } from "../timer-wheel.ts";
import type { Config, TlsConfig } from "./config.ts";
import { LoggedCounters } from "./audit-log.ts";
import type { BoundedLog } from "./bounded-log.ts";
import type { Counters } from "./counters.ts";
import { ClientPorts } from "./client-ports.ts";
import { type Clock, type Core, createCore, loading } from "./core.ts";
import { Ending } from "./ending.ts";
import type { Measured } from "./metrics.ts";
import { Maintenance } from "./maintenance.ts";
import type { Ownership } from "./ownership.ts";
import { Readiness } from "./readiness.ts";

/** At the stop, a client that has received everything gets this long to close its side of the connection. */
const FAREWELL_MS = 1_000;
/** A client that is relayed to the owner of another shard needs two descriptors. */
export const DESCRIPTORS_PER_RELAY = 2;

export const CLOCK: Clock = {
  nowMs: () => performance.now(),
  unixMs: () => Math.max(1, Date.now()),
};

export class Server {
  readonly #config: Config;
  readonly #log: BoundedLog;
  /** Ends the process when the log is written. */
  readonly #exit: (code: number) => Promise<void>;
  readonly #readiness: Readiness;
  readonly #store: Store;
  /** Null for a server with its own journal. */
  readonly #ownership: Ownership | null;
  /** No output leaves any more: another process may own the shard. */
  #isHalted = false;
  readonly counters: Counters;
  readonly #core: Core;
  readonly #admission: Admission;
  readonly #maintenance: Maintenance;
  /** Null without a cluster. */
  readonly #relays: Relays | null;
  /** Null without other shards. */
  readonly #links: NeighbourLinks | null;
  #ports = new ClientPorts();
  /** Those in use; null before `load`. */
  credentials: Credentials | null = null;

  constructor(
    config: Config,
    store: Store,
    log: BoundedLog,
    exit: (code: number) => Promise<void>,
    readiness = new Readiness(),
    ownership: Ownership | null = null,
  ) {
    this.#config = config;
    this.#log = log;
    this.counters = new LoggedCounters(log);
    this.#exit = exit;
    this.#readiness = readiness;
    this.#store = store;
    this.#ownership = ownership;
    const prefix = ownership === null ? "" : tokenPrefix(ownership.shard);
    const hasNeighbours = ownership !== null && ownership.shardCount > 1;
    const warn = (what: string): void => log.error({ event: "neighbour_error" }, what);
    this.#core = createCore({
      clock: CLOCK,
      store,
      users: null,
      passwords: new Passwords(store),
      newToken: () => prefix + randomBytes(16).toString("base64url"),
      idleTimeoutMs: config.idleTimeoutMs,
      blockMs: config.blockMs,
      lockoutScope: config.lockoutScope,
      limits: this.#fit(config),
      commits: () => {
        if (this.#isHalted) return false;
        const saved = store.save();
        return typeof saved === "boolean" ? saved : saved.catch((error: unknown) => this.#exitUnsynced(error));
      },
      report: this.#report,
      observer: this.counters,
      shards: hasNeighbours ? { home: ownership.shard, count: ownership.shardCount, warn } : null,
    });
    this.#relays = this.#core.chat.loginRelay = ownership?.newRelays(this.#core, ownership.shard) ?? null;
    this.#links = hasNeighbours ? ownership.newLinks(this.#core) : null;
    this.#admission = new Admission(this.#core.connections, config.proxyFrom, log);
    this.#maintenance = new Maintenance(this.#core, store, this.#admission, log, this.#report);
  }

  /** The users, and what the store kept of them: in steps, before `listen`. */
  load(credentials: Credentials): Generator<void, void> {
    this.credentials = credentials;
    return loading(this.#core.chat, this.#store, credentials.users, CLOCK.unixMs());
  }

  /** The limits that the descriptors of this process allow. */
  #fit({ limits: { connectionsMax }, limits }: Config): Limits {
    const perClient = this.#ownership !== null && this.#ownership.shardCount > 1 ? DESCRIPTORS_PER_RELAY : 1;
    const fitting = fitDescriptors(limits, Math.floor(descriptorsMax() / perClient));
    if (connectionsMax > fitting.connectionsMax) {
      const why = `${fitting.connectionsMax} connections at most, not ${connectionsMax}`;
      this.#log.warn(
        { event: "config_warning" },
        `${why}: the limit on open files is low; raise it (ulimit -n, or LimitNOFILE= of a unit)`,
      );
    }
    return fitting;
  }

  /**
   * `fsync` failed. Linux may have dropped the dirty pages, so a later success would prove nothing. No reply of the
   * turn leaves: the promise never resolves.
   */
  #exitUnsynced(error: unknown): Promise<never> {
    this.#log.fatal(
      { event: "disk_error", err: error },
      "cannot sync the journal: the disk may have lost writes; the server exits",
    );
    void this.#exit(1);
    return new Promise(() => {});
  }

  /** An internal error closes the connection that caused it, if there is one, and nothing else. */
  readonly #report = (error: unknown, peer?: Peer): void => {
    const fields = { event: "internal_error", err: error } as const;
    if (peer === undefined) return this.#log.error(fields, "internal error; the server continues");
    const { address, session } = peer;
    const user = session?.account.name;
    this.#log.error({ ...fields, address, user }, "internal error; the connection is closed");
  };

  /** What admin commands use. */
  get administered(): Pick<Administered, "chat" | "turn" | "drain" | "backup"> {
    const { chat, turn } = this.#core;
    return {
      chat,
      turn,
      drain: (seconds) => this.drain(seconds),
      backup: (folder) => (this.#ownership ?? this.#store).backup(folder),
    };
  }

  /** What the metrics are read from. */
  get measured(): Measured {
    return {
      counters: this.counters,
      core: this.#core,
      admission: this.#admission,
      store: this.#store,
      links: this.#links,
    };
  }

  /**
   * Applies what can change while the server runs, the users last and in steps; sessions and connections that exist get
   * the new limits too. With a certificate, new connections get it. Throws before anything has changed.
   */
  *applying(config: Config, credentials: Credentials, certificate: Certificate | null): Generator<void, void> {
    const { turn, chat, connections } = this.#core;
    if (certificate !== null) this.#renew(certificate);
    turn.begin();
    this.#log.level = config.logLevel;
    chat.lockouts.blockMs = config.blockMs;
    this.#admission.proxies = config.proxyFrom;
    if (config.web !== null) this.#ports.useOrigins(config.web);
    Object.assign(chat.limits, this.#fit(config));
    connections.limitsChanged();
    const counts =
      credentials === this.credentials ? { added: 0, changed: 0, removed: 0 } : yield* this.#replaceUsers(credentials);
    this.credentials = credentials;
    const users = credentials.users.length;
    this.#log.info({ event: "reload", users, ...counts }, "configuration and credentials reloaded");
    void this.#ownership?.useCredentials(credentials);
  }

  /** Sessions of removed users end; mailboxes and blocks of removed users are kept. Returns how many users differ. */
  *#replaceUsers({ users }: Credentials): Generator<void, { added: number; changed: number; removed: number }> {
    const { chat, turn } = this.#core;
    const { accounts } = chat;
    const names = new Set<string>();
    let [added, changed, removed] = [0, 0, 0];
    for (const { name, password } of users) {
      const account = accounts.recall(name);
      if (account.password === null) added++;
      else if (account.password !== password) changed++;
      account.password = password;
      names.add(name);
      yield;
    }
    for (const account of accounts.all) {
      if (account.password !== null && !names.has(account.name)) {
        if (account.session !== null) turn.begin();
        chat.remove(account);
        removed++;
      }
      yield;
    }
    return { added, changed, removed };
  }

  /** Serves clients at these ports, and opens them unless they are. Throws ListenError, CertificateError. */
  listen(ports: ClientPorts = new ClientPorts()): ClientPorts {
    const beginTurn = (): void => this.#core.turn.begin();
    const handlers = socketHandlers(beginTurn, this.#admission, this.#report, ports.webPort);
    if (ports.isOpen) ports.handle(handlers);
    else ports.open(this.#config, handlers);
    const { outdated } = ports;
    if (outdated !== null) {
      this.#log.warn({ event: "config_warning" }, `${outdated}: clients will not trust it; renew it and send SIGHUP`);
    }
    this.#ownership?.serveGateways(this.#admission, handlers);
    this.#core.turn.begin();
    this.#links?.start();
    const { direct } = ports;
    if (direct !== null) this.#core.chat.direct = { address: direct.address, isEncrypted: ports.isDirectTls };
    this.#ports = ports;
    this.#maintenance.start();
    this.#readiness.serve(this.#store);
    return ports;
  }

  /** A connection without a session, which this process has accepted before it served clients. */
  adopt(
    transport: Transport,
    { address, waited }: Pick<Connection, "address" | "waited">,
    unread: readonly Uint8Array[],
    hasEnded: boolean,
  ): void {
    this.#core.turn.begin();
    const connection = new Connection(this.#core.connections, transport, address, false);
    connection.waited = waited;
    transport.handOver(connection);
    transport.resume();
    for (const chunk of unread) connection.data(chunk as Buffer);
    if (hasEnded) connection.end();
  }

  /** See `ClientPorts.newCertificate`. */
  newCertificate(tls: TlsConfig | null): Certificate | null {
    return this.#ports.newCertificate(tls);
  }

  #renew(certificate: Certificate): void {
    this.#ports.renew(certificate);
    this.#log.info({ event: "reload" }, "certificate reloaded");
  }

  /**
   * Admits no new session, ends the present ones evenly over that time, then stops and ends the process. The ports stay
   * open meanwhile: `resume` and the requests of callback sessions need new connections. False while a drain or a stop
   * is under way already.
   */
  drain(seconds = DRAIN_SECONDS): boolean {
    if (!this.#readiness.enter("draining")) return false;
    const sessions = this.#core.chat.presence.online.length;
    this.#core.turn.begin();
    this.#core.drain(1000 * seconds, () => void this.end());
    this.#log.info({ event: "drain", seconds, sessions }, `the server drains for ${seconds} s, then it stops`);
    return true;
  }

  /**
   * Stops, and ends the process: with 0, or with 1 when the store could not be closed. Without effect when that has
   * begun.
   */
  async end(): Promise<void> {
    if (!this.#readiness.enter("stopping")) return;
    const isStored = await this.stop();
    this.#log.info({ event: "stopped" }, "the server has stopped");
    await this.#exit(isStored ? 0 : 1);
  }

  /**
   * Ends all sessions with `goodbye shutdown`, waits for at most LINGER_MS until the sockets have taken their output,
   * and closes the store. False when the store could not be closed.
   */
  async stop(): Promise<boolean> {
    const { chat, connections, callbacks } = this.#core;
    this.#readiness.enter("stopping");
    const backupStopped = (this.#ownership ?? this.#store).stopBackup();
    this.#ports.stop();
    const isReleased = await this.#handOver();
    const { open } = connections;
    const { calls } = callbacks;
    for (let waitedMs = 0; waitedMs < LINGER_MS; waitedMs += TICK_MS) {
      await Bun.sleep(TICK_MS);
      if (open.size === 0 && calls.size === 0) break;
      if (waitedMs < FAREWELL_MS) continue;
      for (const connection of [...open]) if (connection.drained) connection.hangUp();
    }
    for (const connection of [...open]) connection.hangUp();
    for (const call of calls) call.end();
    this.#maintenance.stop();
    await Promise.race([backupStopped, Bun.sleep(LINGER_MS)]); // The disk of a backup may not answer.
    if (this.#ownership !== null) return isReleased; // The database is only a working copy.
    chat.mailboxScheduler.finish();
    this.#maintenance.followWallClock();
    return this.#closeStore();
  }

  /** Nothing leaves this process any more, whatever happens to it until it exits. */
  halt(): void {
    this.#isHalted = true;
  }

  /** Ends all sessions, then gives the shard of a cluster up. False when the engine did not answer in time. */
  async #handOver(): Promise<boolean> {
    const ownership = this.#ownership;
    const ending = new Ending({
      core: this.#core,
      store: this.#store,
      sleep: (ms) => Bun.sleep(ms),
      unlink: () => {
        this.#relays?.stop();
        this.#links?.stop();
        ownership?.closePort();
        for (const pending of this.#admission.pending) pending.hangUp();
      },
      halt: () => this.halt(),
      release: ownership === null ? null : () => ownership.release(),
    });
    const result = await ending.run();
    if (result === "done") return true;
    this.#log.error(
      { event: "engine_away" },
      result === "unreleased"
        ? "cannot release the shard: the shared log does not answer; another server takes over after 3 s"
        : "the shared log does not answer: requests without a reply are not stored; another server takes over",
    );
    return false;
  }

  #closeStore(): boolean {
    try {
      this.#store.close();
      return true;
    } catch (error) {
      if (error instanceof StoreError) return (this.#log.error({ event: "disk_error" }, error.message), false);
      const { durability } = this.#config;
      const outcome = durability === "none" ? "the last messages are lost" : "the next start reads it from the journal";
      this.#log.error({ event: "disk_error", err: error }, `cannot store everything in the database: ${outcome}`);
      return false;
    }
  }
}
