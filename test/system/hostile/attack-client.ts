import type { Socket } from "bun";
import { FullPort } from "../../support/full-port.ts";
import { PASSWORD } from "../target.ts";

/** How long somebody who was thrown out stays away. */
const PAUSE_MS = 300;
/** Sources of their own, so that nothing which is counted by address meets ordinary users; and there are more ports. */
const SOURCES = 16;
/** Of those who come once so many may be there at a time, and each so long. */
const VISITS_MAX = 500;
const VISIT_MS = 2_000;
/** How long somebody who does not close when the server does keeps that up: longer than a server should wait. */
const STAYS_MS = 10_000;
const STEP_MS = 10;
/** Whoever was kept from acting for longer does not catch up. */
const CATCH_UP_MS = 200;

/** What hostile clients are told: JSON, the first line on their standard input. Then `go` and `rest`. */
export interface AttackOrder {
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
  thrownOut: number;
  bytes: number;
}

export function sumOf(all: readonly AttackStats[]): AttackStats {
  const sum: AttackStats = { connects: 0, thrownOut: 0, bytes: 0 };
  for (const deeds of all) for (const name of Object.keys(sum) as (keyof AttackStats)[]) sum[name] += deeds[name];
  return sum;
}

/** What one connection does. */
export interface Script {
  /** Logs in as that user, with that password (the right one) and those options, before anything else. */
  user?: string;
  password?: string;
  options?: string;
  /** The connection stands, and the user is in; with the first line that came. */
  begins?: (intruder: AttackClient, line: string) => void;
  /** Bytes came after that line. */
  hears?: (intruder: AttackClient, chunk: Buffer) => void;
  /** The kernel took everything. */
  spent?: (intruder: AttackClient) => void;
  /** At the port where TLS is spoken: speaks it, or says anything else. */
  tls?: "spoken" | "not spoken";
  /** Keeps its side open when the server has closed the other one. */
  stays?: true;
  /** Comes once, and does not come back. */
  once?: true;
}

/** One hostile connection. What it says goes out as the kernel takes it; whoever is thrown out comes back. */
export class AttackClient {
  readonly field: AttackRunner;
  readonly script: Script;
  readonly #index: number;
  #socket: Socket<undefined> | null = null;
  #waiting: Buffer[] = [];
  #isIn = false;
  #heard = "";

  constructor(field: AttackRunner, script: Script, index: number) {
    this.field = field;
    this.script = script;
    this.#index = index;
    this.#connect();
  }

  #connect(): void {
    const { field } = this;
    field.deeds.connects++;
    this.#isIn = false;
    this.#heard = "";
    this.#waiting.length = 0;
    const { port, tlsPort } = field.order;
    Bun.connect({
      hostname: "127.0.0.1",
      port: this.script.tls === undefined ? port : tlsPort,
      ...(this.script.tls === "spoken" ? { tls: { rejectUnauthorized: false } } : {}),
      allowHalfOpen: this.script.stays === true,
      ...({ localAddress: field.source(this.#index) } as object),
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
    if (this.field.isOver) return void socket.terminate();
    this.#socket = socket;
    const { user, password = PASSWORD, options = "" } = this.script;
    if (user === undefined) this.#begin();
    else this.say(Buffer.from(`login ${user} ${password}${options}\n`));
  }

  #begin(line = ""): void {
    this.#isIn = true;
    this.script.begins?.(this, line);
  }

  #read(chunk: Buffer): void {
    if (this.#isIn) return this.script.hears?.(this, chunk);
    this.#heard += chunk.toString("latin1");
    const lf = this.#heard.indexOf("\n");
    if (lf < 0) return;
    if (!this.#heard.startsWith("ok")) return this.leave();
    this.#begin(this.#heard.slice(0, lf));
    this.script.hears?.(this, Buffer.from(this.#heard.slice(lf + 1), "latin1"));
  }

  #ended(socket: Socket<undefined>): void {
    if (this.script.stays) this.field.after(STAYS_MS, () => socket.terminate());
  }

  #closed(): void {
    const { field, script } = this;
    if (field.isOver) return;
    if (this.#socket !== null) field.deeds.thrownOut++;
    this.#socket = null;
    if (script.once) field.forget(this);
    else field.after(PAUSE_MS, () => this.#connect());
  }

  get isIn(): boolean {
    return this.#isIn && this.#socket !== null;
  }

  say(bytes: Buffer): void {
    if (this.#socket === null) return;
    this.#waiting.push(bytes);
    if (this.#waiting.length === 1) this.#flush();
  }

  #flush(): void {
    while (this.#socket !== null && this.#waiting.length > 0) {
      const bytes = this.#waiting[0]!;
      const taken = Math.max(0, this.#socket.write(bytes));
      this.field.deeds.bytes += taken;
      if (taken < bytes.length) return void (this.#waiting[0] = bytes.subarray(taken));
      this.#waiting.shift();
      if (this.#waiting.length === 0) this.script.spent?.(this);
    }
  }

  /** Reads no more. */
  goDeaf(): void {
    this.#socket?.pause();
  }

  /** Goes, in order or with a reset. */
  leave(cuts = true): void {
    const socket = this.#socket;
    this.#socket = null;
    if (cuts) socket?.terminate();
    else socket?.end();
  }
}

/** Where an attack takes place: its connections, its clock, its listeners. All of it ends with `leave`. */
export class AttackRunner {
  readonly order: AttackOrder;
  readonly deeds = sumOf([]);
  isOver = false;
  readonly #intruders = new Set<AttackClient>();
  readonly #timers = new Set<Timer>();
  readonly #listeners: { stop(closeActive?: boolean): void }[] = [];
  #opened = 0;

  constructor(order: AttackOrder) {
    this.order = order;
  }

  /** So many, as strong as the attack is to be. */
  scaled(count: number): number {
    return Math.max(1, Math.round(count * this.order.strength));
  }

  source(index: number): string {
    return `127.0.66.${1 + (index % SOURCES)}`;
  }

  user(index: number): string {
    return this.order.users[index % this.order.users.length]!;
  }

  open(script: Script): AttackClient {
    const intruder = new AttackClient(this, script, this.#opened++);
    this.#intruders.add(intruder);
    return intruder;
  }

  /** Somebody comes once, and is hung up on when they are still there after a while. */
  visit(script: Script): void {
    if (this.#intruders.size >= VISITS_MAX) return;
    const intruder = this.open({ ...script, once: true });
    this.after(VISIT_MS, () => {
      if (this.#intruders.delete(intruder)) intruder.leave();
    });
  }

  forget(intruder: AttackClient): void {
    this.#intruders.delete(intruder);
  }

  /** A port where somebody answers that, to whatever is said; nothing at all with null. */
  listen(answer: string | null): number {
    const listener = Bun.listen({
      hostname: this.source(0),
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
  unused(): number {
    const listener = Bun.listen({ hostname: this.source(0), port: 0, socket: { data: () => {} } });
    listener.stop(true);
    return listener.port;
  }

  /** A port that accepts nobody: a connection to it stays in SYN_SENT. */
  fullPort(): number {
    const full = new FullPort();
    this.#listeners.push({ stop: () => full.close() });
    // The one that its queue holds.
    Bun.connect({ hostname: this.source(0), port: full.port, socket: { data: () => {} } }).catch(() => {});
    return full.port;
  }

  get count(): number {
    return this.#intruders.size;
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
      for (; dueMs <= nowMs && !this.isOver; dueMs += 1000 / rate) act(count++);
    }, STEP_MS);
    this.#timers.add(timer);
  }

  leave(): void {
    this.isOver = true;
    for (const timer of this.#timers) clearTimeout(timer);
    for (const listener of this.#listeners) listener.stop(true);
    for (const intruder of this.#intruders) intruder.leave();
  }
}
