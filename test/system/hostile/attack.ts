import { ATTACKS, type AttackName } from "./attacks.ts";
import { type AttackSpec, type AttackStats, AttackRunner, sumOf } from "./attack-client.ts";
import { linesOf, onCore } from "../../../bench/program.ts";
import { ControlledProcess } from "../controlled-process.ts";

/**
 * So long, so often, they do nothing: a virtual machine both of whose cores are never idle is itself made to wait for
 * milliseconds, and that would be counted as what they do to the server.
 */
const IDLE_MS = 2;
const IDLE_INTERVAL_MS = 10;

/**
 * Hostile clients in a process of their own. It gets what the server leaves of its core: on the other one it would make
 * those late who measure.
 */
export class Attackers {
  readonly #program: ControlledProcess<AttackStats>;

  constructor(spec: AttackSpec) {
    const idly = Bun.which("chrt") === null ? [] : ["chrt", "--idle", "0"];
    this.#program = new ControlledProcess("the hostile clients", "test/system/hostile/attack.ts", spec, [
      ...onCore(0),
      ...idly,
    ]);
  }

  /** They come. */
  start(): void {
    this.#program.send("start");
  }

  /** They leave all at once; resolves when they are gone, with what they did since they came. */
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
        // Users of its own, or two attacks would throw each other out.
        const users = spec.users.filter((_, at) => at % spec.attacks.length === index);
        const runner = new AttackRunner({ ...spec, users });
        ATTACKS[name as AttackName].start(runner);
        return runner;
      });
    } else {
      for (const runner of runners) runner.stop();
      process.stdout.write(`${JSON.stringify(sumOf(runners.map(({ stats: deeds }) => deeds)))}\n`);
    }
  }
  process.exit(0);
}
