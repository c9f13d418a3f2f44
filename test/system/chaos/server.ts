/** The server under chaos: started, killed at random or chosen moments, and started again with the same data. */
import { watch, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Random } from "../../support/random.ts";
import { freePort } from "../../support/free-port.ts";
import { PASSWORD, nameOf } from "./clients.ts";
import { Program, within } from "../../../bench/program.ts";

export interface ServerSpec {
  folder: string;
  users: number;
  durability: string;
  /** Whether the limits per address apply to loopback, so that many connections are refused. */
  limitLoopback: boolean;
  /** Idle timeout of sessions. */
  idleTimeoutS: number;
}

/** Is notified of what happens to the server. */
export interface ServerObserver {
  fault(what: string): void;
  /** From now on, no output of the server may reach a client. */
  muteOutput(): void;
  /** The server was killed. */
  killed(): void;
  /** The server is started again. */
  starting(): void;
}

/** What chaos needs of a server, and what a single one and a cluster have in common. */
export interface ServersUnderChaos {
  /** Where the next connection of a client goes, over TCP and over WebSocket. */
  readonly port: number;
  readonly webPort: number;
  /** Rejects when a server does not start, or ends by itself. */
  readonly failed: Promise<never>;
  /** Kills so far, and of them those before the server listened again. */
  readonly kills: number;
  readonly killsInStart: number;
  /** That of the shared log of a cluster; empty for a server of its own. */
  readonly url: string;
  /** Other faults of the servers, for the report. */
  readonly faults: string;
  /** Starts everything; resolves when clients can log in. */
  start(): Promise<void>;
  /** Schedules `kills` kills within `ms`. */
  scheduleKills(kills: number, ms: number): void;
  /** Called every 50 ms: begins what is due. */
  step(): void;
  /** Output of the server was seen. */
  outputSeen(): void;
  /** Kills the server once more and starts it again. */
  killOnce(): Promise<void>;
  /** Ends the kills. Resolves when clients can log in. */
  stopKills(): Promise<void>;
  /** Nothing is started again, and everything may end. */
  stop(): Promise<void>;
}

/** Idle timeout of sessions of chaos. Some outages are longer. */
export const IDLE_TIMEOUT_S = 5;
/** Limits: until the server is ready; until it starts again; from the end of its output until the kill. */
const READY_MS = 30_000;
const AWAY_MS = 1_200;
const MUTE_MS = 800;
/** A kill during a start comes within these parts of the duration of the last start: of all of it, and of recovery. */
const START_FACTOR = 1.3;
const RECOVERY_FACTOR = 0.15;

/** The file with all users, in the folder of a run. */
export const CREDENTIALS = "credentials.txt";

/** The command line that all servers have in common; writes the credentials. `program` is that of another version. */
export function serveOptions(
  { folder, users, limitLoopback, idleTimeoutS }: ServerSpec,
  program = "src/main.ts",
): string[] {
  const credentials = join(folder, CREDENTIALS);
  writeFileSync(credentials, Array.from({ length: users }, (_, index) => `${nameOf(index)} ${PASSWORD}\n`).join(""));
  // Over WebSocket the limits apply to loopback in any case.
  const rate = limitLoopback ? "50" : "1000000";
  const limits = ["--connection-rate", rate, "--connections-per-address", String(Math.min(users * 2, 1_000_000))];
  const heartbeat = ["--heartbeat-interval", String(idleTimeoutS)];
  const common = ["--credentials", credentials, ...heartbeat];
  return [program, "serve", ...common, ...limits, ...(limitLoopback ? ["--limit-loopback"] : [])];
}

/** A server that is killed now and then and started again on the same port with the same data. */
export class ChaosServer implements ServersUnderChaos {
  readonly port = freePort();
  readonly webPort = freePort();
  readonly failed: Promise<never>;
  kills = 0;
  killsInStart = 0;
  readonly url = "";
  readonly faults = "";
  readonly #args: string[];
  readonly #data: string;
  readonly #random: Random;
  readonly #observer: ServerObserver;
  readonly #fail: (error: Error) => void;
  #program: Program | null = null;
  #listens = false;
  /** Duration of the last start. */
  #startMs = 0;
  /** When the next kills are due, ascending. */
  #killsAtMs: number[] = [];
  #killsLeft = 0;
  #restart: Promise<void> | null = null;
  /** A kill is due and has not happened. */
  #isKillPending = false;
  /** It happens at the next output of the server. */
  #killsOnOutput = false;
  #isStopped = false;

  constructor(spec: ServerSpec, random: Random, around: ServerObserver) {
    this.#data = join(spec.folder, "data");
    const ports = ["--host", "127.0.0.1", "--port", String(this.port), "--web", String(this.webPort)];
    const place = [...ports, "--data", this.#data, "--durability", spec.durability];
    this.#args = [...serveOptions(spec), ...place];
    this.#random = random;
    this.#observer = around;
    const { promise, reject } = Promise.withResolvers<never>();
    promise.catch(() => {});
    this.failed = promise;
    this.#fail = reject;
  }

  /** Starts the server and resolves when it listens. */
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

  /** Schedules `kills` kills within `ms`. */
  scheduleKills(kills: number, ms: number): void {
    const nowMs = performance.now();
    this.#killsLeft = kills;
    this.#killsAtMs = Array.from({ length: kills }, () => nowMs + this.#random.below(ms * 0.9)).sort((a, b) => a - b);
  }

  /** Called every 50 ms: begins a kill that is due, in one of three ways. */
  step(): void {
    if (this.#restart !== null || this.#isKillPending || !(performance.now() > this.#killsAtMs[0]!)) return;
    this.#killsAtMs.shift();
    this.#isKillPending = true;
    const way = this.#random.below(3);
    this.#killsOnOutput = way === 0;
    if (way === 1) this.#beginRestart();
    if (way !== 2) return;
    // Killed after a while in which no output arrived: only its stored state shows what it acted on.
    this.#observer.muteOutput();
    setTimeout(() => this.#beginRestart(), this.#random.below(MUTE_MS));
  }

  /** Output of the server was seen. Some kills happen at that moment: what was promised must survive. */
  outputSeen(): void {
    if (this.#killsOnOutput) this.#beginRestart();
  }

  /** Kills the server once more and starts it again. */
  async killOnce(): Promise<void> {
    this.#killsLeft = 1;
    this.#beginRestart();
    await this.#restart;
  }

  /** Ends the kills. Resolves when the server listens. */
  async stopKills(): Promise<void> {
    this.#killsAtMs.length = this.#killsLeft = 0;
    this.#killsOnOutput = false;
    await this.#restart;
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#program = null;
  }

  #beginRestart(): void {
    this.#isKillPending = this.#killsOnOutput = false;
    if (this.#killsLeft <= 0 || this.#restart !== null) return;
    this.#restart = this.#killAndStart().finally(() => (this.#restart = null));
  }

  /** Kills the server and starts it. Every third kill and some others are followed by one during or after the start. */
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

  /** Waits for the moment of such a kill: a random one, or half of the time one during recovery. */
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
