import { ATTACKS, type AttackName } from "./attacks.ts";
import { type AttackOrder, type Deeds, Field } from "./intruder.ts";
import { Program, linesOf, onCore } from "./program.ts";
import { TargetError } from "./target.ts";

/**
 * Hostile clients in a process of their own. It gets what the server leaves of its core: on the other one it would make
 * those late who measure.
 */
export class Attackers {
  readonly #program: Program;
  #rested = Promise.withResolvers<Deeds>();

  constructor(order: AttackOrder) {
    const errors: string[] = [];
    this.#program = new Program(
      ["bench/attack.ts"],
      (line) => this.#rested.resolve(JSON.parse(line)),
      (line) => errors.push(line),
      [...onCore(0), ...(Bun.which("chrt") === null ? [] : ["chrt", "--idle", "0"])],
    );
    void this.#program.ended.then((how) =>
      this.#rested.reject(new TargetError(`the hostile clients ended (${how}): ${errors.join(" ").slice(0, 500)}`)),
    );
    this.#rested.promise.catch(() => {});
    this.#program.say(JSON.stringify(order));
  }

  /** They come. */
  go(): void {
    this.#program.say("go");
  }

  /** They leave all at once; resolves when they are gone, with what they did since they came. */
  async rest(): Promise<Deeds> {
    this.#rested = Promise.withResolvers();
    this.#rested.promise.catch(() => {});
    this.#program.say("rest");
    return this.#rested.promise;
  }

  async stop(): Promise<void> {
    if (this.#program.isRunning) await this.#program.stop();
  }
}

if (import.meta.main) {
  const lines = linesOf(Bun.stdin.stream());
  const order = JSON.parse((await lines.next()).value as string) as AttackOrder;
  let fields: Field[] = [];
  for await (const line of lines) {
    if (line === "go") {
      fields = order.attacks.map((name, index) => {
        // Users of its own, or two attacks would throw each other out.
        const users = order.users.filter((_, at) => at % order.attacks.length === index);
        const field = new Field({ ...order, users });
        ATTACKS[name as AttackName].begin(field);
        return field;
      });
    } else {
      const deeds: Deeds = { connects: 0, thrownOut: 0, bytes: 0 };
      for (const field of fields) {
        field.leave();
        for (const name of ["connects", "thrownOut", "bytes"] as const) deeds[name] += field.deeds[name];
      }
      process.stdout.write(`${JSON.stringify(deeds)}\n`);
    }
  }
  process.exit(0);
}
