import type { Socket } from "bun";
import { FullPort } from "../../support/full-port.ts";
import { PASSWORD } from "../target.ts";

/** How long somebody who was thrown out stays away. */
const RECONNECT_MS = 300;
/** Sources of their own, so that nothing which is counted by address meets ordinary users; and there are more ports. */
const SOURCE_ADDRESSES = 16;
/** Of those who come once so many may be there at a time, and each so long. */
const CLIENTS_MAX_FOR_ONCE = 500;
const ONCE_MS = 2_000;
/** How long somebody who does not close when the server does keeps that up: longer than a server should wait. */
const IGNORES_END_MS = 10_000;
const STEP_MS = 10;
/** Whoever was kept from acting for longer does not catch up. */
const CATCH_UP_MS = 200;

/** What hostile clients are told: JSON, the first line on their standard input. Then `go` and `rest`. */
export interface AttackSpec {
  attacks: string[];
  port: number;
  /** Where TLS is spoken. */
  tlsPort: number;
  /** Names that they may use; those of which the server has a hash; and those of ordinary users, who are written to. */
  users: string[];
  hashed: string[];
  ordinary: string[];
  /** How many times as many connections as by default, and as much on them. */
  strength: number;
}

/** What they did. */
export interface AttackStats {
  connects: number;
  /** Of these the server closed, or cut. */
  closedByServer: number;
  bytes: number;
}

export function sumOf(all: readonly AttackStats[]): AttackStats {
  const sum: AttackStats = { connects: 0, closedByServer: 0, bytes: 0 };
  for (const stats of all) for (const name of Object.keys(sum) as (keyof AttackStats)[]) sum[name] += stats[name];
  return sum;
}

/** What one connection does. */
export interface ClientScript {
  /** Logs in as that user, with that password (the right one) and those options, before anything else. */
  user?: string;
  password?: string;
  options?: string;
  /** The connection stands, and the user is in; with the first line that came. */
  onReady?: (client: AttackClient, line: string) => void;
  /** Bytes came after that line. */
  onData?: (client: AttackClient, chunk: Buffer) => void;
  /** The kernel took everything. */
  onDrained?: (client: AttackClient) => void;
  /** At the port where TLS is spoken: speaks it, or says anything else. */
  tls?: "spoken" | "not spoken";
  /** Keeps its side open when the server has closed the other one. */
  ignoresEnd?: true;
  /** Comes once, and does not come back. */
  once?: true;
}

/** One hostile connection. What it says goes out as the kernel takes it; whoever is thrown out comes back. */
export class AttackClient {
  readonly runner: AttackRunner;
  readonly script: ClientScript;
  readonly #index: number;
  #socket: Socket<undefined> | null = null;
  #waiting: Buffer[] = [];
  #isReady = false;
  #loginReply = "";

  constructor(runner: AttackRunner, script: ClientScript, index: number) {
    this.runner = runner;
    this.script = script;
    this.#index = index;
    this.#connect();
  }

  #connect(): void {
    const { runner: runner } = this;
    runner.stats.connects++;
    this.#isReady = false;
    this.#loginReply = "";
    this.#waiting.length = 0;
    const { port, tlsPort } = runner.spec;
    Bun.connect({
      hostname: "127.0.0.1",
      port: this.script.tls === undefined ? port : tlsPort,
      ...(this.script.tls === "spoken" ? { tls: { rejectUnauthorized: false } } : {}),
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
    const { runner: runner, script } = this;
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

  /** Reads no more. */
  stopReading(): void {
    this.#socket?.pause();
  }

  /** Goes, in order or with a reset. */
  close(cuts = true): void {
    const socket = this.#socket;
    this.#socket = null;
    if (cuts) socket?.terminate();
    else socket?.end();
  }
}

/** Where an attack takes place: its connections, its clock, its listeners. All of it ends with `leave`. */
export class AttackRunner {
  readonly spec: AttackSpec;
  readonly stats = sumOf([]);
  isStopped = false;
  readonly #clients = new Set<AttackClient>();
  readonly #timers = new Set<Timer>();
  readonly #listeners: { stop(closeActive?: boolean): void }[] = [];
  #opened = 0;

  constructor(spec: AttackSpec) {
    this.spec = spec;
  }

  /** So many, as strong as the attack is to be. */
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

  /** Somebody comes once, and is hung up on when they are still there after a while. */
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

  /** A port where somebody answers that, to whatever is said; nothing at all with null. */
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

  /** A port where nobody is. */
  closedPort(): number {
    const listener = Bun.listen({ hostname: this.sourceAddress(0), port: 0, socket: { data: () => {} } });
    listener.stop(true);
    return listener.port;
  }

  /** A port that accepts nobody: a connection to it stays in SYN_SENT. */
  fullPort(): number {
    const full = new FullPort();
    this.#listeners.push({ stop: () => full.close() });
    // The one that its queue holds.
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

  /** Does that so many times a second. */
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
