/** The ordinary users of the hostile and soak tests: a load generator that is measured slice by slice. */
import type { WorkloadSpec, Outcome, Slice } from "../../../bench/load/workload-spec.ts";
import { onCore } from "../../../bench/program.ts";
import { ControlledProcess } from "../controlled-process.ts";
import { PASSWORD, type Target } from "../target.ts";

export const ORDINARY_USERS = 20;

/** The load of the ordinary users: messages in pairs, and broadcasts of some of them in turn. */
export interface LoadSpec {
  users: readonly string[];
  /** Messages per second of all together. */
  rate: number;
  /** One broadcast per this many messages. */
  broadcastEach: number;
  /** Number of users that broadcast. */
  broadcasters: number;
  warmupMs: number;
  /** Whether the server may refuse messages. */
  mayRefuse: boolean;
}

const PAYLOAD_BYTES = 64;

/** A load generator in a process of its own. It sends all the time; `measure` returns the figures of one period. */
export class BackgroundLoad {
  readonly #program: ControlledProcess<{ slice: Slice | null; outcome: Outcome }>;

  constructor(target: Target, { users, rate, broadcastEach, broadcasters, warmupMs, mayRefuse }: LoadSpec) {
    const spec: WorkloadSpec = {
      generator: "typescript",
      protocol: "heartline",
      host: "127.0.0.1",
      port: target.port,
      pid: target.pid,
      users: users.map((name) => [name, PASSWORD]),
      crowd: 0,
      window: 0,
      rate,
      payloadBytes: PAYLOAD_BYTES,
      beatMs: 0,
      warmupMs,
      measureMs: 0,
      scenario: { help: "", messages: true, broadcasters, broadcastEach, aliveEach: 9, instead: null },
      resumable: "half",
      loginsAtOnce: 64,
      mayRefuse,
    };
    const isAnswer = (message: object): boolean => "slice" in message || "outcome" in message;
    this.#program = new ControlledProcess("the ordinary users", "bench/load/swarm.ts", spec, onCore(1), isAnswer);
  }

  /** Resolves when all users are logged in and the warm-up is over. */
  async ready(): Promise<void> {
    await this.#program.answer;
  }

  /** Measures for `ms`. */
  async measure(ms: number): Promise<Slice> {
    return (await this.#program.ask(String(ms))).slice!;
  }

  /** Stops sending, and returns the totals since the first message. */
  async finish(): Promise<Outcome> {
    return (await this.#program.endInput()).outcome;
  }
}
