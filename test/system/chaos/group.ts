/** A process of clients behind a proxy of its own: starts it, kills it, and makes outages. */
import type { Random } from "../../support/random.ts";
import { type ClientsSpec, KILL_POINTS } from "./clients.ts";
import { IDLE_TIMEOUT_S } from "./server.ts";
import { Program, within } from "../../../bench/program.ts";
import type { Proxy } from "./fault-proxy.ts";

/** One process of clients with its proxy. */
export class Group {
  readonly proxy: Proxy;
  readonly #spec: Omit<ClientsSpec, "seed">;
  readonly #random: Random;
  readonly #fault: (what: string) => void;
  #program: Program | null = null;
  /** The last line of its process (see clients.ts); empty when it does not run. */
  state = "";
  #isKillPending = false;
  #isStopped = false;
  readonly #faultsStopped = Promise.withResolvers<void>();
  #killAtMs = 0;
  #outageAtMs = 0;
  kills = 0;
  outages = 0;

  constructor(proxy: Proxy, spec: Omit<ClientsSpec, "seed">, random: Random, fault: (what: string) => void) {
    this.proxy = proxy;
    this.#spec = spec;
    this.#random = random;
    this.#fault = fault;
    this.#outageAtMs = performance.now() + random.between(1_000, 4_000);
  }

  start(rate = this.#spec.rate): void {
    this.#isKillPending = false;
    this.state = "";
    this.#killAtMs = performance.now() + this.#random.between(1_500, this.kills === 0 ? 4_000 : 9_000);
    const spec: ClientsSpec = { ...this.#spec, rate, seed: this.#random.below(2 ** 31) };
    const program = new Program(
      ["test/system/chaos/clients.ts", JSON.stringify(spec)],
      (line) => {
        if (!this.#isKillPending) this.state = line;
      },
      (line) => this.#fault(`a client process wrote: ${line}`),
    );
    this.#program = program;
    void program.ended.then((how) => {
      if (program === this.#program) this.state = "";
      const isMeant = how === "SIGKILL" ? this.#isKillPending : how === "code 0";
      if (!isMeant) this.#fault(`a client process ended with ${how}`);
    });
  }

  writeLine(line: string): void {
    this.#program?.writeLine(line);
  }

  get ended(): Promise<string> {
    return this.#program!.ended;
  }

  /** Called every 50 ms while faults are enabled. */
  step(): void {
    const nowMs = performance.now();
    if (nowMs > this.#killAtMs) {
      this.#killAtMs = Number.POSITIVE_INFINITY;
      void this.#kill();
    }
    if (nowMs < this.#outageAtMs) return;
    const ms = this.#random.between(500, IDLE_TIMEOUT_S * 1_500);
    this.#outageAtMs = nowMs + ms + this.#random.between(5_000, 15_000);
    this.outages++;
    this.proxy.refuses = true;
    this.proxy.cut();
    setTimeout(() => (this.proxy.refuses = false), ms);
  }

  /** Kills the process, half of the time at one of its kill points, and starts it again after a pause. */
  async #kill(): Promise<void> {
    const program = this.#program!;
    this.#isKillPending = true;
    this.state = ""; // Lines that are written to it from here on may be lost.
    this.kills++;
    const downMs = this.#random.oneIn(4) ? IDLE_TIMEOUT_S * 1_000 + 1_500 : this.#random.below(1_000);
    if (this.#random.oneIn(2)) {
      program.writeLine(`die ${this.#random.pick(KILL_POINTS)} ${this.#random.between(1, 30)}`);
      await within(program.ended, 1_000);
    }
    program.kill("SIGKILL");
    await program.ended;
    await within(this.#faultsStopped.promise, downMs);
    if (!this.#isStopped) this.start();
  }

  get isRunning(): boolean {
    return this.state !== "";
  }

  /** The process is not started again. */
  stop(): void {
    this.#isStopped = true;
    this.proxy.stop();
  }

  stopFaults(): void {
    this.#killAtMs = this.#outageAtMs = Number.POSITIVE_INFINITY;
    this.proxy.refuses = false;
    this.#faultsStopped.resolve();
  }
}
