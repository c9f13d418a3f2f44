/**
 * The means of an attack: connections (AttackClient) and what they share (AttackRunner): timers, listeners, statistics.
 * What an attack does is in attacks.ts; attack.ts runs it in a process of its own.
 */
import type { Socket } from "bun";
import { FullPort } from "../../support/full-port.ts";
import { PASSWORD } from "../target.ts";

/** Pause before a client connects again after the server closed its connection. */
const RECONNECT_MS = 300;
/** Source addresses that no ordinary user has, so limits per address do not apply to those; also for more ports. */
const SOURCE_ADDRESSES = 16;
/** Clients of `openOnce` at the same time, and the longest time of each. */
const CLIENTS_MAX_FOR_ONCE = 500;
const ONCE_MS = 2_000;
/** How long a client with `ignoresEnd` keeps its side open: longer than a server should wait. */
const IGNORES_END_MS = 10_000;
const STEP_MS = 10;
/** After a pause of this process, `perSecond` catches up for this long at most. */
const CATCH_UP_MS = 200;

/** The attacks of a process: JSON, the first line on its stdin. The lines after it are `start` and `pause`. */
export interface AttackSpec {
  attacks: string[];
  port: number;
  /** The port for TLS. */
  tlsPort: number;
  /** Users of the attackers, with plain passwords. */
  users: string[];
  /** Users of the attackers whose passwords the server has as hashes. */
  hashed: string[];
  /** Ordinary users, who receive messages from some attacks. */
  ordinary: string[];
  /** Factor for the number of connections and the rates. */
  strength: number;
}

/** What an attack did. */
export interface AttackStats {
  connects: number;
  /** Connections that the server closed or reset. */
  closedByServer: number;
  /** Bytes sent. */
  bytes: number;
}

export function sumOf(all: readonly AttackStats[]): AttackStats {
  const sum: AttackStats = { connects: 0, closedByServer: 0, bytes: 0 };
  for (const stats of all) for (const name of Object.keys(sum) as (keyof AttackStats)[]) sum[name] += stats[name];
  return sum;
}

/** The behaviour of one connection. */
export interface ClientScript {
  /** The user to log in first; without one the connection has no session. */
  user?: string;
  /** The password of the login (PASSWORD). */
  password?: string;
  /** The options of the login, each after a space. */
  options?: string;
  /** The connection is open and the login complete; `line` is the reply to the login. */
  onReady?: (client: AttackClient, line: string) => void;
  /** Bytes arrived after that reply. */
  onData?: (client: AttackClient, chunk: Buffer) => void;
  /** All output was written to the socket. */
  onDrained?: (client: AttackClient) => void;
  /** Connects to the TLS port, with a handshake or with plain bytes. */
  tls?: "handshake" | "plain bytes";
  /** Keeps its side open when the server closes the other one. */
  ignoresEnd?: true;
  /** Does not connect again. */
  once?: true;
}

/** One hostile client. It sends as fast as the kernel takes its output, and connects again when the server closes. */
export class AttackClient {
  readonly runner: AttackRunner;
  readonly script: ClientScript;
  readonly #index: number;
  #socket: Socket<undefined> | null = null;
  /** Output that the kernel has not taken. */
  #waiting: Buffer[] = [];
  /** The login is complete. */
  #isReady = false;
  /** Bytes received before that. */
  #loginReply = "";

  constructor(runner: AttackRunner, script: ClientScript, index: number) {
    this.runner = runner;
    this.script = script;
    this.#index = index;
    this.#connect();
  }

  #connect(): void {
    const { runner } = this;
    runner.stats.connects++;
    this.#isReady = false;
    this.#loginReply = "";
    this.#waiting.length = 0;
    const { port, tlsPort } = runner.spec;
    Bun.connect({
      hostname: "127.0.0.1",
      port: this.script.tls === undefined ? port : tlsPort,
      ...(this.script.tls === "handshake" ? { tls: { rejectUnauthorized: false } } : {}),
      allowHalfOpen: this.script.ignoresEnd === true,
      ...({ localAddress: runner.sourceAddress(this.#index) } as object),
      socket: {
        open: (socket) => this.#opened(socket),
        data: (_socket, chunk) => this.#read(chunk),
        drain: () => this.#flush(),
        end: (socket) => this.#ended(socket),
        close: () => this.#closed(),
        connectError: () => this.#closed(),
      },
    }).catch(() => {});
  }

  #opened(socket: Socket<undefined>): void {
    if (this.runner.isStopped) return void socket.terminate();
    this.#socket = socket;
    const { user, password = PASSWORD, options = "" } = this.script;
    if (user === undefined) this.#ready();
    else this.send(Buffer.from(`login ${user} ${password}${options}\n`));
  }

  #ready(line = ""): void {
    this.#isReady = true;
    this.script.onReady?.(this, line);
  }

  #read(chunk: Buffer): void {
    if (this.#isReady) return this.script.onData?.(this, chunk);
    this.#loginReply += chunk.toString("latin1");
    const lf = this.#loginReply.indexOf("\n");
    if (lf < 0) return;
    if (!this.#loginReply.startsWith("ok")) return this.close();
    this.#ready(this.#loginReply.slice(0, lf));
    this.script.onData?.(this, Buffer.from(this.#loginReply.slice(lf + 1), "latin1"));
  }

  #ended(socket: Socket<undefined>): void {
    if (this.script.ignoresEnd) this.runner.after(IGNORES_END_MS, () => socket.terminate());
  }

  #closed(): void {
    const { runner, script } = this;
    if (runner.isStopped) return;
    if (this.#socket !== null) runner.stats.closedByServer++;
    this.#socket = null;
    if (script.once) runner.forget(this);
    else runner.after(RECONNECT_MS, () => this.#connect());
  }

  get canSend(): boolean {
    return this.#isReady && this.#socket !== null;
  }

  send(bytes: Buffer): void {
    if (this.#socket === null) return;
    this.#waiting.push(bytes);
    if (this.#waiting.length === 1) this.#flush();
  }

  #flush(): void {
    while (this.#socket !== null && this.#waiting.length > 0) {
      const bytes = this.#waiting[0]!;
      const taken = Math.max(0, this.#socket.write(bytes));
      this.runner.stats.bytes += taken;
      if (taken < bytes.length) return void (this.#waiting[0] = bytes.subarray(taken));
      this.#waiting.shift();
      if (this.#waiting.length === 0) this.script.onDrained?.(this);
    }
  }

  /** Stops reading for good. */
  stopReading(): void {
    this.#socket?.pause();
  }

  /** Closes the connection, with a reset or with FIN. */
  close(reset = true): void {
    const socket = this.#socket;
    this.#socket = null;
    if (reset) socket?.terminate();
    else socket?.end();
  }
}

/** Runs one attack: owns its clients, timers, listeners and statistics. `stop` ends all of them. */
export class AttackRunner {
  readonly spec: AttackSpec;
  readonly stats = sumOf([]);
  isStopped = false;
  readonly #clients = new Set<AttackClient>();
  readonly #timers = new Set<Timer>();
  readonly #listeners: { stop(closeActive?: boolean): void }[] = [];
  /** Number of clients so far: selects their source addresses. */
  #opened = 0;

  constructor(spec: AttackSpec) {
    this.spec = spec;
  }

  /** A number of clients or a rate, multiplied by the strength of the attack. */
  scaled(count: number): number {
    return Math.max(1, Math.round(count * this.spec.strength));
  }

  sourceAddress(index: number): string {
    return `127.0.66.${1 + (index % SOURCE_ADDRESSES)}`;
  }

  user(index: number): string {
    return this.spec.users[index % this.spec.users.length]!;
  }

  open(script: ClientScript): AttackClient {
    const client = new AttackClient(this, script, this.#opened++);
    this.#clients.add(client);
    return client;
  }

  /** Opens a client that does not connect again and is reset after ONCE_MS. */
  openOnce(script: ClientScript): void {
    if (this.#clients.size >= CLIENTS_MAX_FOR_ONCE) return;
    const client = this.open({ ...script, once: true });
    this.after(ONCE_MS, () => {
      if (this.#clients.delete(client)) client.close();
    });
  }

  forget(client: AttackClient): void {
    this.#clients.delete(client);
  }

  /** A listener that answers any bytes with `answer`, closes at once if that is empty, and is silent if it is null. */
  listen(answer: string | null): number {
    const listener = Bun.listen({
      hostname: this.sourceAddress(0),
      port: 0,
      socket: {
        open: (socket) => {
          if (answer === "") socket.end();
        },
        data: (socket) => {
          if (answer !== null) socket.write(answer);
        },
      },
    });
    this.#listeners.push(listener);
    return listener.port;
  }

  /** A port without a listener. */
  closedPort(): number {
    const listener = Bun.listen({ hostname: this.sourceAddress(0), port: 0, socket: { data: () => {} } });
    listener.stop(true);
    return listener.port;
  }

  /** A port with a full accept queue: a connection to it stays in SYN_SENT. */
  fullPort(): number {
    const full = new FullPort();
    this.#listeners.push({ stop: () => full.close() });
    // This connection fills the queue.
    Bun.connect({ hostname: this.sourceAddress(0), port: full.port, socket: { data: () => {} } }).catch(() => {});
    return full.port;
  }

  get count(): number {
    return this.#clients.size;
  }

  after(ms: number, act: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      act();
    }, ms);
    this.#timers.add(timer);
  }

  /** Calls `act` `rate` times per second, with the number of the call. */
  perSecond(rate: number, act: (count: number) => void): void {
    let dueMs = performance.now();
    let count = 0;
    const timer = setInterval(() => {
      const nowMs = performance.now();
      dueMs = Math.max(dueMs, nowMs - CATCH_UP_MS);
      for (; dueMs <= nowMs && !this.isStopped; dueMs += 1000 / rate) act(count++);
    }, STEP_MS);
    this.#timers.add(timer);
  }

  stop(): void {
    this.isStopped = true;
    for (const timer of this.#timers) clearTimeout(timer);
    for (const listener of this.#listeners) listener.stop(true);
    for (const client of this.#clients) client.close();
  }
}
