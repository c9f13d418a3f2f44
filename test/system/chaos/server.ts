import { watch, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Random } from "../../support/random.ts";
import { PASSWORD, nameOf } from "./clients.ts";
import { Program, within } from "../../../bench/program.ts";

export interface ServerSpec {
  folder: string;
  users: number;
  durability: string;
  /** Whether the limits on addresses hold here, so that newcomers are refused at the door. */
  limitLoopback: boolean;
}

/** What is around the server, and hears what happens to it. */
export interface ServerObserver {
  fault(what: string): void;
  /** From now on nothing that it says arrives. */
  muteOutput(): void;
  /** It was killed. */
  killed(): void;
  /** It is started again. */
  starting(): void;
}

/** A session ends after so much silence; outages outlast it. */
export const IDLE_TIMEOUT_S = 5;
/** Systems give ports from 32768 on to whoever wants any: below it a port is still free when its owner comes back. */
const PORT_MIN = 10_000;
const PORT_MAX = 32_000;
/** Bounds of times: for it to be ready; how long it is away; how long before it nothing arrives. */
const READY_MS = 30_000;
const AWAY_MS = 1_200;
const MUTE_MS = 800;
/** A kill in a start comes within so much of the time of the last start; what it does with its data takes so much. */
const START_FACTOR = 1.3;
const RECOVERY_FACTOR = 0.15;

/** The server, which is killed now and then, and started again on the same port with the same data. */
export class ChaosServer {
  readonly port = freePort();
  /** Rejects when it cannot go on. */
  readonly failed: Promise<never>;
  kills = 0;
  /** Those of them that came before it listened again. */
  killsInStart = 0;
  readonly #args: string[];
  readonly #data: string;
  readonly #random: Random;
  readonly #observer: ServerObserver;
  readonly #fail: (error: Error) => void;
  #program: Program | null = null;
  #listens = false;
  #startMs = 0;
  #killsAtMs: number[] = [];
  #killsLeft = 0;
  #restart: Promise<void> | null = null;
  #isKillPending = false;
  #killsOnOutput = false;
  #isStopped = false;

  constructor(spec: ServerSpec, random: Random, around: ServerObserver) {
    const credentials = join(spec.folder, "credentials.txt");
    const users = Array.from({ length: spec.users }, (_, index) => `${nameOf(index)} ${PASSWORD}\n`);
    writeFileSync(credentials, users.join(""));
    this.#data = join(spec.folder, "data");
    this.#args = [
      "src/main.ts",
      "serve",
      "--host",
      "127.0.0.1",
      "--port",
      String(this.port),
      "--credentials",
      credentials,
      "--data",
      this.#data,
      "--durability",
      spec.durability,
      "--heartbeat-interval",
      String(IDLE_TIMEOUT_S),
      ...(spec.limitLoopback ? ["--limit-loopback", "--connection-rate", "50"] : []),
      ...(spec.limitLoopback ? ["--connections-per-address", String(spec.users * 2)] : []),
    ];
    this.#random = random;
    this.#observer = around;
    const { promise, reject } = Promise.withResolvers<never>();
    promise.catch(() => {});
    this.failed = promise;
    this.#fail = reject;
  }

  /** Starts it; resolves when it listens. */
  async start(): Promise<void> {
    const startedMs = performance.now();
    this.#listens = false;
    const { promise, resolve } = Promise.withResolvers<true>();
    const errors: string[] = [];
    const program = new Program(
      this.#args,
      () => {
        this.#listens = true;
        this.#startMs = performance.now() - startedMs;
        resolve(true);
      },
      (line) => {
        if (/"level":[1-4]0/.test(line)) return;
        errors.push(line);
        this.#observer.fault(`the server wrote: ${line}`);
      },
    );
    this.#program = program;
    void program.ended.then((how) => {
      if (this.#program === program) this.#fail(new Error(`the server ended with ${how}: ${errors.join("; ")}`));
    });
    const listens = await within(Promise.race([promise, program.ended]), READY_MS);
    if (listens === null) this.#fail(new Error("the server does not start"));
  }

  /** It will be killed so many times within about that time. */
  scheduleKills(kills: number, ms: number): void {
    const nowMs = performance.now();
    this.#killsLeft = kills;
    this.#killsAtMs = Array.from({ length: kills }, () => nowMs + this.#random.below(ms * 0.9)).sort((a, b) => a - b);
  }

  /** Time passes. */
  step(): void {
    if (this.#restart !== null || this.#isKillPending || !(performance.now() > this.#killsAtMs[0]!)) return;
    this.#killsAtMs.shift();
    this.#isKillPending = true;
    const way = this.#random.below(3);
    this.#killsOnOutput = way === 0;
    if (way === 1) this.#beginRestart();
    if (way !== 2) return;
    // It acts on much of which nobody hears in time: only what it kept can tell of it.
    this.#observer.muteOutput();
    setTimeout(() => this.#beginRestart(), this.#random.below(MUTE_MS));
  }

  /** Something that it said went by: some kills come at just that moment, when it must stand by its word. */
  outputSeen(): void {
    if (this.#killsOnOutput) this.#beginRestart();
  }

  /** It is killed once more, and started again. */
  async killOnce(): Promise<void> {
    this.#killsLeft = 1;
    this.#beginRestart();
    await this.#restart;
  }

  /** No more kills; resolves when it listens. */
  async stopKills(): Promise<void> {
    this.#killsAtMs.length = this.#killsLeft = 0;
    this.#killsOnOutput = false;
    await this.#restart;
  }

  /** It is not started any more, and may end. */
  stop(): void {
    this.#isStopped = true;
    this.#program = null;
  }

  #beginRestart(): void {
    this.#isKillPending = this.#killsOnOutput = false;
    if (this.#killsLeft <= 0 || this.#restart !== null) return;
    this.#restart = this.#killAndStart().finally(() => (this.#restart = null));
  }

  /** Every third kill comes while it starts again, or when it just has; so do some others. */
  async #killAndStart(): Promise<void> {
    for (;;) {
      await this.#kill();
      await Bun.sleep(this.#random.below(AWAY_MS));
      if (this.#isStopped) return;
      this.#observer.starting();
      const started = this.start();
      if (this.#killsLeft <= 0 || (this.kills % 3 !== 2 && !this.#random.oneIn(4))) return started;
      await this.#waitForKillInStart();
      if (!this.#listens) this.killsInStart++;
    }
  }

  /** Any moment will do; half of the time it is one at which the data are being worked on. */
  async #waitForKillInStart(): Promise<void> {
    const anyMs = this.#random.below(this.#startMs * START_FACTOR);
    if (this.#random.oneIn(2)) return Bun.sleep(anyMs);
    const { promise, resolve } = Promise.withResolvers<void>();
    const watcher = watch(this.#data, () => resolve());
    await within(promise, READY_MS);
    watcher.close();
    await Bun.sleep(this.#random.below(this.#startMs * RECOVERY_FACTOR));
  }

  async #kill(): Promise<void> {
    const program = this.#program;
    if (program === null) return;
    this.#program = null;
    this.#killsLeft--;
    this.kills++;
    program.kill("SIGKILL");
    this.#observer.killed();
    await program.ended;
  }
}

/** A port where nobody is. */
export function freePort(): number {
  for (;;) {
    const port = PORT_MIN + Math.floor(Math.random() * (PORT_MAX - PORT_MIN));
    try {
      Bun.listen({ hostname: "127.0.0.1", port, socket: { data: () => {} } }).stop();
      return port;
    } catch {
      // Somebody is there.
    }
  }
}
