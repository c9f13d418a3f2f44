import type { Order, Outcome, Slice } from "./order.ts";
import { Program, onCore } from "./program.ts";
import { PASSWORD, type Target, TargetError } from "./target.ts";

export const ORDINARY = 20;

/** What ordinary users do, all together: they talk in pairs, and each of them broadcasts now and then. */
export interface Talk {
  users: readonly string[];
  /** Messages a second. */
  rate: number;
  /** One broadcast for so many messages, of so many users. */
  broadcastEach: number;
  broadcasters: number;
  warmupMs: number;
  /** A message may be refused. */
  mayRefuse: boolean;
}

const PAYLOAD_BYTES = 64;

/** Ordinary users in a process of their own: they go on talking, and are measured slice by slice. */
export class Ordinary {
  readonly #program: Program;
  readonly #errors: string[] = [];
  #slice = Promise.withResolvers<Slice | null>();
  readonly #outcome = Promise.withResolvers<Outcome>();

  constructor(target: Target, { users, rate, broadcastEach, broadcasters, warmupMs, mayRefuse }: Talk) {
    const order: Order = {
      ...{ dialect: "heartline", host: "127.0.0.1", port: target.port, pid: target.pid },
      users: users.map((name) => [name, PASSWORD]),
      ...{ crowd: 0, window: 0, rate, payloadBytes: PAYLOAD_BYTES, beatMs: 0, warmupMs, measureMs: 0 },
      scenario: { help: "", messages: true, broadcasters, broadcastEach, aliveEach: 9, instead: null },
      ...{ resumable: "half", loginsAtOnce: 64, mayRefuse },
    };
    this.#program = new Program(
      ["bench/swarm.ts"],
      (line) => this.#heard(JSON.parse(line)),
      (line) => this.#errors.push(line),
      onCore(1),
    );
    void this.#program.ended.then((how) => {
      const error = new TargetError(`the ordinary users ended (${how}): ${this.#errors.join(" ").slice(0, 500)}`);
      this.#slice.reject(error);
      this.#outcome.reject(error);
    });
    this.#outcome.promise.catch(() => {});
    this.#slice.promise.catch(() => {});
    this.#program.say(JSON.stringify(order));
  }

  #heard(said: { slice: Slice | null } | { outcome: Outcome } | { progress: string }): void {
    if ("outcome" in said) this.#outcome.resolve(said.outcome);
    if ("slice" in said) this.#slice.resolve(said.slice);
  }

  /** Resolves when everybody is in, and has talked for a while. */
  async enter(): Promise<void> {
    await this.#slice.promise;
  }

  /** What they notice from now on, for so long. */
  async measure(ms: number): Promise<Slice> {
    this.#slice = Promise.withResolvers();
    this.#slice.promise.catch(() => {});
    this.#program.say(String(ms));
    return (await this.#slice.promise)!;
  }

  /** Nobody says anything more: how it went, from the first message on. */
  async leave(): Promise<Outcome> {
    this.#program.finish();
    return this.#outcome.promise;
  }
}
