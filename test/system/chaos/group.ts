import type { Random } from "../../support/random.ts";
import { type ClientsOrder, INSTANTS } from "./clients.ts";
import { SILENCE_S } from "./server.ts";
import { Program, within } from "../../../bench/program.ts";
import type { Proxy } from "./fault-proxy.ts";

/** One process of clients with a proxy of its own, both of which come and go. */
export class Group {
  readonly proxy: Proxy;
  readonly #order: ClientsOrder;
  readonly #random: Random;
  readonly #fault: (what: string) => void;
  #program: Program | null = null;
  /** The last word of its process: all its users are in, or some are out; quiet is in, and nothing to be done. */
  state = "";
  #doomed = false;
  #stopped = false;
  readonly #calmed = Promise.withResolvers<void>();
  #killAtMs = 0;
  #outageAtMs = 0;
  kills = 0;
  outages = 0;

  constructor(proxy: Proxy, order: ClientsOrder, random: Random, fault: (what: string) => void) {
    this.proxy = proxy;
    this.#order = order;
    this.#random = random;
    this.#fault = fault;
    this.#outageAtMs = performance.now() + random.between(1_000, 4_000);
  }

  start(rate = this.#order.rate): void {
    this.#doomed = false;
    this.state = "";
    this.#killAtMs = performance.now() + this.#random.between(1_500, this.kills === 0 ? 4_000 : 9_000);
    const order: ClientsOrder = { ...this.#order, rate, seed: this.#random.below(2 ** 31) };
    const program = new Program(
      ["test/system/chaos/clients.ts", JSON.stringify(order)],
      (line) => {
        if (!this.#doomed) this.state = line;
      },
      (line) => this.#fault(`a client process wrote: ${line}`),
    );
    this.#program = program;
    void program.ended.then((how) => {
      if (program === this.#program) this.state = "";
      const isMeant = how === "SIGKILL" ? this.#doomed : how === "code 0";
      if (!isMeant) this.#fault(`a client process ended with ${how}`);
    });
  }

  say(line: string): void {
    this.#program?.say(line);
  }

  get ended(): Promise<string> {
    return this.#program!.ended;
  }

  /** Time passes in the storm. */
  step(): void {
    const nowMs = performance.now();
    if (nowMs > this.#killAtMs) {
      this.#killAtMs = Number.POSITIVE_INFINITY;
      void this.#kill();
    }
    if (nowMs < this.#outageAtMs) return;
    const ms = this.#random.between(500, SILENCE_S * 1_500);
    this.#outageAtMs = nowMs + ms + this.#random.between(5_000, 15_000);
    this.outages++;
    this.proxy.refuses = true;
    this.proxy.cut();
    setTimeout(() => (this.proxy.refuses = false), ms);
  }

  /** Kills it, half of the time at an instant of its own, and starts it again after a while. */
  async #kill(): Promise<void> {
    const program = this.#program!;
    this.#doomed = true;
    this.state = ""; // What is said to it from here on may be lost.
    this.kills++;
    const downMs = this.#random.oneIn(4) ? SILENCE_S * 1_000 + 1_500 : this.#random.below(1_000);
    if (this.#random.oneIn(2)) {
      program.say(`die ${this.#random.pick(INSTANTS)} ${this.#random.between(1, 30)}`);
      await within(program.ended, 1_000);
    }
    program.kill("SIGKILL");
    await program.ended;
    await within(this.#calmed.promise, downMs);
    if (!this.#stopped) this.start();
  }

  get isThere(): boolean {
    return this.state !== "";
  }

  /** Nothing is started any more. */
  stop(): void {
    this.#stopped = true;
    this.proxy.stop();
  }

  calm(): void {
    this.#killAtMs = this.#outageAtMs = Number.POSITIVE_INFINITY;
    this.proxy.refuses = false;
    this.#calmed.resolve();
  }
}
