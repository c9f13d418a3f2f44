import { randomBytes } from "node:crypto";
import { Chat } from "../chat/chat.ts";
import {
  GARBAGE_BYTES_MAX,
  GARBAGE_MS,
  INPUT_BYTES_MAX,
  LINGER_MS,
  PRESENCE_DELAY_MS,
  STORE_RETRY_MS,
} from "../limits.ts";
import { LoopTurn } from "../stream/turn.ts";
import { TICK_MS, TimerWheel } from "../timer-wheel.ts";
import { Admission, fitDescriptors } from "../net/admission.ts";
import { Callback, Callbacks } from "../net/callback.ts";
import { CertificateError, readCertificate } from "../net/certificate.ts";
import type { Config } from "./config.ts";
import { Connection, Connections } from "../net/connection.ts";
import type { SocketEvents } from "../net/transport.ts";
import type { Credentials } from "../auth/credentials.ts";
import { StoreError } from "../storage/database.ts";
import { descriptorsMax, residentBytes } from "../runtime/kernel.ts";
import { Listener } from "../net/listener.ts";
import type { Logger } from "../runtime/log.ts";
import { Passwords } from "../auth/passwords.ts";
import { openStore } from "../storage/recovery.ts";
import type { Store } from "../storage/store.ts";

/** How long clients get to close their side when the server stops, once they have everything. */
const FAREWELL_MS = 1_000;
/** A wall clock that differs by this much from the monotonic one was set. */
const CLOCK_STEP_MS = 1_000;
/** A connection with a session may hold this many times as much as one without. */
const SESSION_WEIGHT = 8;
/** How often the log tells of connections that were refused. */
const REFUSALS_MS = 8 * STORE_RETRY_MS;

/**
 * Bounds the memory of unfinished and waiting lines of all connections together. Closes the connections that hold most,
 * and those without a session sooner.
 */
export function closeLargest(open: Iterable<Connection>): void {
  const all = [...open];
  let bytes = all.reduce((sum, { heldBytes }) => sum + heldBytes, 0);
  if (bytes <= INPUT_BYTES_MAX) return;
  const rank = ({ session, heldBytes }: Connection): number => heldBytes / (session === null ? 1 : SESSION_WEIGHT);
  for (const connection of all.sort((a, b) => rank(b) - rank(a))) {
    if (bytes <= INPUT_BYTES_MAX) return;
    bytes -= connection.heldBytes;
    connection.hangUp();
  }
}

/** A running server: the chat with its store behind it and its sockets before it. */
export class Server {
  readonly #config: Config;
  readonly #log: Logger;
  /** Ends the process once the log is written. */
  readonly #exit: (code: number) => Promise<void>;
  readonly #store: Store;
  readonly #turn = new LoopTurn({
    begins: () => {
      this.#chat.wheel.begin(performance.now());
      this.#chat.unixMs = unixMs();
      this.#connections.serveReady();
    },
    ends: () => this.#chat.turnEnds() || this.#connections.ready.size > 0,
    commits: () => {
      const saved = this.#store.save();
      return typeof saved === "boolean" ? saved : saved.catch((error: unknown) => this.#die(error));
    },
    failed: (error, sink) => this.#fault(error, sink ?? null, "a fault while writing"),
  });
  readonly #chat: Chat;
  readonly #connections: Connections;
  readonly #callbacks: Callbacks;
  readonly #admission: Admission;
  /** For connections in the clear, and over TLS. */
  #plain: Listener | null = null;
  #encrypted: Listener | null = null;
  #ticker: Timer | null = null;
  #ticks = 0;
  #trouble: string | null = null;
  /** Unix time when the monotonic clock was 0: it changes when the wall clock is set. */
  #epochMs = unixMs() - performance.now();
  /** The least memory since garbage was collected the last time. */
  #leastBytes = Number.POSITIVE_INFINITY;

  /** Opens the data folder. Throws StoreError. */
  constructor(config: Config, credentials: Credentials, log: Logger, exit: (code: number) => Promise<void>) {
    this.#config = config;
    this.#log = log;
    this.#exit = exit;
    this.#store = this.#recover();
    const limits = fitDescriptors(config.limits, descriptorsMax());
    const { connectionsMax } = config.limits;
    if (connectionsMax > limits.connectionsMax) {
      log.warn(`${limits.connectionsMax} connections at most, not ${connectionsMax}: the limit on open files is low`);
    }
    this.#chat = new Chat({
      wheel: new TimerWheel(performance.now()),
      turn: this.#turn,
      store: this.#store,
      passwords: new Passwords(this.#store),
      newToken: () => randomBytes(16).toString("base64url"),
      newCaller: (session, address, port, secret) => new Callback(this.#callbacks, session, address, port, secret),
      idleTimeoutMs: config.silenceMs,
      blockMs: config.blockMs,
      lockoutScope: config.lockoutScope,
      limits,
      report: (error, peer) => this.#blame(error, peer ?? null, "a fault inside"),
    });
    this.#callbacks = new Callbacks(this.#chat, () => this.#turn.begin());
    this.#connections = new Connections(this.#chat);
    this.#admission = new Admission(this.#connections, config.proxyFrom, log);
    this.#load(credentials);
  }

  /** Opens the data folder, and says on a terminal how far it is when that takes a while. */
  #recover(): Store {
    const { data, durability, salvage } = this.#config;
    const beganMs = performance.now();
    let saidMs = beganMs;
    const progress = (part: number): void => {
      if (!process.stderr.isTTY || performance.now() - saidMs < 1000) return;
      saidMs = performance.now();
      process.stderr.write(`recovering what the last run left: ${Math.floor(part * 100)} %\n`);
    };
    const { store, recovered } = openStore(data, durability, { salvage, unixMs: unixMs(), progress });
    const { records, messages, damage } = recovered;
    const tookMs = Math.round(performance.now() - beganMs);
    if (records > 0) this.#log.info(`the last run was cut off: recovered in ${tookMs} ms, with ${messages} messages`);
    if (damage !== null) this.#log.error(`salvaged a damaged journal: ${damage}`);
    return store;
  }

  /** The disk broke a promise of its own: what was not answered yet must not be, so this never resolves. */
  #die(error: unknown): Promise<never> {
    this.#log.fatal(error, "the disk does not keep what is written; nothing more can be promised");
    void this.#exit(1);
    return new Promise(() => {});
  }

  #load(credentials: Credentials): void {
    const { accounts } = this.#chat;
    for (const { name, password } of credentials.users) accounts.add(name, password);
    for (const { user, other } of this.#store.blocks()) accounts.recall(user).block(accounts.recall(other));
    for (const { user, from, messages, bytes } of this.#store.waiting()) {
      accounts.recall(user).countWaiting(from, messages, bytes);
    }
    const nowMs = unixMs();
    for (const { untilUnixMs, ...wrong } of this.#store.lockouts()) {
      if (this.#chat.lockouts.restore(wrong, untilUnixMs - nowMs)) continue;
      this.#store.wrongPasswords({ ...wrong, count: 0 }, 0);
    }
  }

  /** From now on these are the users. Those who were, and are none any more, are ended. */
  reload({ users }: Credentials): void {
    this.#turn.begin();
    const { accounts } = this.#chat;
    const names = new Set(users.map(({ name }) => name));
    const removed = accounts.all.filter(({ name, password }) => password !== null && !names.has(name));
    for (const account of removed) this.#chat.remove(account);
    let added = 0;
    let changed = 0;
    for (const { name, password } of users) {
      const account = accounts.recall(name);
      if (account.password === null) added++;
      else if (account.password !== password) changed++;
      account.password = password;
    }
    this.#log.info({ users: users.length, added, changed, removed: removed.length }, "the credentials were read again");
  }

  /** What nobody expected costs one connection at most, and a line that says whose. */
  #fault(error: unknown, whose: unknown, what: string): void {
    this.#blame(error, whose, what);
    if (whose instanceof Connection) whose.hangUp();
  }

  #blame(error: unknown, whose: unknown, what: string): void {
    if (!(whose instanceof Connection)) return this.#log.error(error, `${what}; the chat goes on`);
    const { address, session } = whose;
    this.#log.error({ err: error, address, user: session?.account.name }, `${what}; this connection ends`);
  }

  /** Begins to listen, in the clear, over TLS, or both. Throws ListenError, CertificateError. */
  listen(): { plain: Listener | null; encrypted: Listener | null } {
    const { host, port, tls } = this.#config;
    const certificate = tls === null ? null : readCertificate(tls.chain, tls.key);
    if (tls === null || tls.port !== null) this.#plain = new Listener(host, port, this.#handlers, null);
    if (certificate !== null) {
      this.#encrypted = new Listener(host, tls!.port ?? port, this.#tlsHandlers, certificate);
      if (certificate.outdated !== null) this.#log.warn(`${certificate.outdated}: clients will not trust it`);
    }
    this.#tick();
    return { plain: this.#plain, encrypted: this.#encrypted };
  }

  /** Every fault in a handler costs its own connection at most. */
  readonly #handlers: Bun.SocketHandler<SocketEvents | null> = {
    open: (socket) => {
      this.#turn.begin();
      this.#admission.open(socket);
    },
    data: (socket, chunk) => {
      this.#turn.begin();
      socket.data?.data(chunk);
    },
    drain: (socket) => {
      this.#turn.begin();
      socket.data?.drain();
    },
    end: (socket) => {
      this.#turn.begin();
      socket.data?.end();
    },
    close: (socket) => {
      this.#turn.begin();
      socket.data?.closed();
    },
    error: (socket, error) => {
      this.#blame(error, socket.data, "a fault in a handler");
      socket.end();
    },
  };

  readonly #tlsHandlers: Bun.SocketHandler<SocketEvents | null> = {
    ...this.#handlers,
    open: (socket) => {
      this.#turn.begin();
      this.#admission.open(socket, true);
    },
    // Without a client's certificate there is always an error: only `isWell` counts.
    handshake: (socket, isWell, error) => {
      this.#turn.begin();
      socket.data?.handshake?.(isWell ? null : error);
    },
    error: (socket, error) => {
      const isTheirs = (error as NodeJS.ErrnoException).code === "EPROTO";
      if (!isTheirs) return this.#handlers.error!(socket, error);
      this.#admission.count(socket.remoteAddress, error.message);
      socket.end();
    },
  };

  /** Reads the renewed certificate, for who connects from now on. Throws CertificateError, and keeps the old one. */
  renewCertificate(): void {
    if (this.#encrypted === null) return;
    const { chain, key } = this.#config.tls!;
    const certificate = readCertificate(chain, key, "regular");
    if (certificate.outdated !== null) throw new CertificateError(certificate.outdated);
    this.#encrypted.renew(certificate);
    this.#log.info("the certificate was read again");
  }

  /** Periodic work, and its interval in ticks. */
  readonly #duties: readonly { ticks: number; act: () => void }[] = [
    { ticks: 1, act: () => this.#turn.begin() },
    { ticks: 1, act: () => this.#advance() },
    { ticks: PRESENCE_DELAY_MS / TICK_MS, act: () => this.#sweep(residentBytes()) },
    { ticks: STORE_RETRY_MS / TICK_MS, act: () => this.#retry() },
    { ticks: GARBAGE_MS / TICK_MS, act: () => this.#collect(residentBytes()) },
    { ticks: REFUSALS_MS / TICK_MS, act: () => this.#admission.report() },
  ];

  /** One tick. A fault in one of the duties does not affect the others. */
  #tick(): void {
    this.#ticks++;
    for (const { ticks, act } of this.#duties) {
      if (this.#ticks % ticks !== 0) continue;
      try {
        act();
      } catch (error) {
        this.#blame(error, null, "a fault at a tick");
      }
    }
    const delayMs = TICK_MS - (performance.now() % TICK_MS);
    this.#ticker = setTimeout(() => this.#tick(), Math.ceil(delayMs));
  }

  /** A process smaller than the bound of all streams needs no count of waiting lines. */
  #sweep(residentBytes?: number): void {
    this.#chat.sweep(residentBytes);
    if (residentBytes === undefined || residentBytes > this.#chat.limits.streamsBytesMax)
      closeLargest(this.#connections.open);
  }

  /** Fires every timer that is due. A fault in one of them costs its connection at most. */
  #advance(): void {
    const { wheel } = this.#chat;
    const nowMs = performance.now();
    for (;;) {
      try {
        return wheel.advance(nowMs);
      } catch (error) {
        this.#fault(error, wheel.firing, "a fault at a deadline");
      }
    }
  }

  /**
   * The runtime counts the journal's mapped files as memory that lives, and lets as much garbage gather before it
   * collects; its timer does that each second, but each 30 once the heap has not grown for half a minute. It is told to
   * earlier, and collects what is young beside the turns that follow; what has outlived that when it thinks fit.
   */
  #collect(bytes: number | undefined): void {
    if (bytes === undefined) return;
    this.#leastBytes = Math.min(this.#leastBytes, bytes);
    if (bytes - this.#leastBytes < GARBAGE_BYTES_MAX) return;
    this.#leastBytes = bytes;
    Bun.gc(false);
  }

  /** Stored lockouts end at times of the wall clock: when it was set, they are stored again. */
  #compareClocks(): void {
    const epochMs = unixMs() - performance.now();
    if (Math.abs(epochMs - this.#epochMs) < CLOCK_STEP_MS) return;
    this.#epochMs = epochMs;
    this.#chat.lockouts.clockWasSet();
  }

  /** What the disk refused is tried again; each change of that is logged once. */
  #retry(): void {
    this.#compareClocks();
    this.#store.retry();
    const { writeError: trouble, writeErrorUntil: troubleUntil } = this.#store;
    if (trouble === this.#trouble) return;
    this.#trouble = trouble;
    if (trouble === null) this.#log.info("the disk takes everything again");
    else this.#log.error(`${trouble}; messages are answered with err internal until ${troubleUntil}`);
  }

  /** Says goodbye to everybody, lets the sockets take what was promised, and closes the store; false when it fails. */
  async stop(): Promise<boolean> {
    this.#plain?.stop();
    this.#encrypted?.stop();
    this.#turn.begin();
    this.#chat.shutdown();
    const { open } = this.#connections;
    for (const connection of open) connection.close();
    for (const newcomer of this.#admission.pending) newcomer.hangUp();
    const { calls } = this.#callbacks;
    for (let waitedMs = 0; waitedMs < LINGER_MS; waitedMs += TICK_MS) {
      await Bun.sleep(TICK_MS);
      if (open.size === 0 && calls.size === 0) break;
      if (waitedMs < FAREWELL_MS) continue;
      for (const connection of [...open]) if (connection.drained) connection.hangUp();
    }
    for (const connection of [...open]) connection.hangUp();
    for (const call of calls) call.end();
    if (this.#ticker !== null) clearTimeout(this.#ticker);
    this.#chat.mailboxScheduler.finish();
    this.#compareClocks();
    try {
      this.#store.close();
      return true;
    } catch (error) {
      if (error instanceof StoreError) return (this.#log.error(error.message), false);
      const { durability } = this.#config;
      const fate = durability === "none" ? "what was said last is lost" : "the next start takes it from the journal";
      this.#log.error(error, `not everything could be stored; ${fate}`);
      return false;
    }
  }
}

/** The wall clock, wherever it was set; never 0, which no message's time may be. */
function unixMs(): number {
  return Math.max(1, Date.now());
}
