import type { WorkloadSpec, Outcome, Slice } from "../../../bench/load/workload-spec.ts";
import { onCore } from "../../../bench/program.ts";
import { ControlledProcess } from "../controlled-process.ts";
import { PASSWORD, type Target } from "../target.ts";

export const ORDINARY_USERS = 20;

/** What ordinary users do, all together: they talk in pairs, and each of them broadcasts now and then. */
export interface LoadSpec {
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
export class BackgroundLoad {
  readonly #program: ControlledProcess<{ slice: Slice | null; outcome: Outcome }>;

  constructor(target: Target, { users, rate, broadcastEach, broadcasters, warmupMs, mayRefuse }: LoadSpec) {
    const spec: WorkloadSpec = {
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
    const isAnswer = (said: object): boolean => "slice" in said || "outcome" in said;
    this.#program = new ControlledProcess("the ordinary users", "bench/load/swarm.ts", spec, onCore(1), isAnswer);
  }

  /** Resolves when everybody is in, and has talked for a while. */
  async ready(): Promise<void> {
    await this.#program.answer;
  }

  /** What they notice from now on, for so long. */
  async measure(ms: number): Promise<Slice> {
    return (await this.#program.ask(String(ms))).slice!;
  }

  /** Nobody says anything more: how it went, from the first message on. */
  async finish(): Promise<Outcome> {
    return (await this.#program.endInput()).outcome;
  }
}
