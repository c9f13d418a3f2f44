/** The process of the hostile clients, and the handle to it (Attackers). */
import { ATTACKS, type AttackName } from "./attacks.ts";
import { type AttackSpec, type AttackStats, AttackRunner, sumOf } from "./attack-client.ts";
import { linesOf, onCore } from "../../../bench/program.ts";
import { ControlledProcess } from "../controlled-process.ts";

/**
 * The process sleeps IDLE_MS every IDLE_INTERVAL_MS. A virtual machine whose cores are never idle is suspended by its
 * host for milliseconds at a time, which would count as an effect of the attack.
 */
const IDLE_MS = 2;
const IDLE_INTERVAL_MS = 10;

/**
 * Hostile clients in a process of their own. It runs at idle priority on the core of the server: on the other core it
 * would delay the load generator, which measures.
 */
export class Attackers {
  readonly #program: ControlledProcess<AttackStats>;

  constructor(spec: AttackSpec) {
    const idlePriority = Bun.which("chrt") === null ? [] : ["chrt", "--idle", "0"];
    this.#program = new ControlledProcess("the hostile clients", "test/system/hostile/attack.ts", spec, [
      ...onCore(0),
      ...idlePriority,
    ]);
  }

  /** Starts the attacks. */
  start(): void {
    this.#program.send("start");
  }

  /** Ends the attacks, which can be started again. Resolves with what they did since `start`. */
  pause(): Promise<AttackStats> {
    return this.#program.ask("pause");
  }

  stop(): Promise<void> {
    return this.#program.stop();
  }
}

if (import.meta.main) {
  const lines = linesOf(Bun.stdin.stream());
  const spec = JSON.parse((await lines.next()).value as string) as AttackSpec;
  setInterval(() => Bun.sleepSync(IDLE_MS), IDLE_INTERVAL_MS);
  let runners: AttackRunner[] = [];
  for await (const line of lines) {
    if (line === "start") {
      runners = spec.attacks.map((name, index) => {
        // Each attack has users of its own: two attacks with one user would replace each other's sessions.
        const users = spec.users.filter((_, at) => at % spec.attacks.length === index);
        const runner = new AttackRunner({ ...spec, users });
        ATTACKS[name as AttackName].start(runner);
        return runner;
      });
    } else {
      for (const runner of runners) runner.stop();
      process.stdout.write(`${JSON.stringify(sumOf(runners.map(({ stats }) => stats)))}\n`);
    }
  }
  process.exit(0);
}
