import { ATTACKS, type AttackName } from "./attacks.ts";
import { type AttackOrder, type AttackStats, AttackRunner, sumOf } from "./attack-client.ts";
import { linesOf, onCore } from "../../../bench/program.ts";
import { ControlledProcess } from "../controlled-process.ts";

/**
 * So long, so often, they do nothing: a virtual machine both of whose cores are never idle is itself made to wait for
 * milliseconds, and that would be counted as what they do to the server.
 */
const REST_MS = 2;
const REST_EACH_MS = 10;

/**
 * Hostile clients in a process of their own. It gets what the server leaves of its core: on the other one it would make
 * those late who measure.
 */
export class Attackers {
  readonly #program: ControlledProcess<AttackStats>;

  constructor(order: AttackOrder) {
    const idly = Bun.which("chrt") === null ? [] : ["chrt", "--idle", "0"];
    this.#program = new ControlledProcess("the hostile clients", "test/system/hostile/attack.ts", order, [
      ...onCore(0),
      ...idly,
    ]);
  }

  /** They come. */
  go(): void {
    this.#program.tell("go");
  }

  /** They leave all at once; resolves when they are gone, with what they did since they came. */
  rest(): Promise<AttackStats> {
    return this.#program.ask("rest");
  }

  stop(): Promise<void> {
    return this.#program.stop();
  }
}

if (import.meta.main) {
  const lines = linesOf(Bun.stdin.stream());
  const order = JSON.parse((await lines.next()).value as string) as AttackOrder;
  setInterval(() => Bun.sleepSync(REST_MS), REST_EACH_MS);
  let fields: AttackRunner[] = [];
  for await (const line of lines) {
    if (line === "go") {
      fields = order.attacks.map((name, index) => {
        // Users of its own, or two attacks would throw each other out.
        const users = order.users.filter((_, at) => at % order.attacks.length === index);
        const field = new AttackRunner({ ...order, users });
        ATTACKS[name as AttackName].begin(field);
        return field;
      });
    } else {
      for (const field of fields) field.leave();
      process.stdout.write(`${JSON.stringify(sumOf(fields.map(({ deeds }) => deeds)))}\n`);
    }
  }
  process.exit(0);
}
