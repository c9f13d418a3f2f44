import { openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { ChatClient, ChatError, type ChatEvent, type ClientState, type StateStore } from "../src/client/client.ts";
import { StateFile } from "../src/client/state-file.ts";
import { Random } from "../test/support/random.ts";

/** What a process of clients is told by the harness. */
export interface ClientsOrder {
  folder: string;
  port: number;
  /** Its users are `first` to `first + count - 1` of so many. */
  first: number;
  count: number;
  users: number;
  /** Messages a second, of all its users together; 0 only listens. */
  rate: number;
  seed: number;
}

/** An instant at which the harness may have the process kill itself, since a kill from outside rarely hits it. */
export type Instant = "shown" | "saving" | "saved";
export const INSTANTS: readonly Instant[] = ["shown", "saving", "saved"];

export const PASSWORD = "secret";
/** How far away in the list the partners of a user are; everybody writes to themselves too. */
const PARTNERS = [0, 1, 2, 5, 11];
const UNANSWERED_MAX = 30;
const BEAT_MS = 40;
const LEAVE_MS = 10_000;

export function nameOf(index: number): string {
  return `u${index}`;
}

export function logOf(folder: string, user: string): string {
  return join(folder, `${user}.log`);
}

/** One in eight has no connection of its own. */
export function isCallback(index: number): boolean {
  return index % 8 === 3;
}

/** The text of a numbered message: of all lengths, and not only ASCII, so that cuts hit every part of a line. */
export function textOf(number: number): string {
  const long = number % 41 === 7 ? 2500 : 0;
  return `${number} ${"gräße"[number % 5]!.repeat(1 + ((number * 37) % 90) + long / 2)}`;
}

/**
 * One user, who says things and logs what happens, at the moment at which it happens. A log has a line each for: `run`,
 * a start of the process; `i <to> <n>`, about to be sent; `k <to> <n>`, kept in a saved state; `o`, `u` and `n` (with
 * <to> <n> <code>), accepted, unknown and refused; `r <from> <n>`, shown; `s`, all before it is saved; `lost`,
 * `back` and `login`, of the session; `ended`, it does not come back; and `fault`, what must never be.
 */
class Talker {
  readonly user: string;
  readonly #order: ClientsOrder;
  readonly #index: number;
  readonly #log: number;
  readonly #numbers: Map<string, number>;
  readonly #kept = new Set<string>();
  readonly #reached: (instant: Instant) => void;
  #client: ChatClient | null = null;
  #isIn = false;
  #token = "";
  #leaving = false;
  unanswered = 0;

  constructor(order: ClientsOrder, index: number, numbers: Map<string, number>, reached: (instant: Instant) => void) {
    this.#order = order;
    this.#index = index;
    this.user = nameOf(index);
    this.#numbers = numbers;
    this.#reached = reached;
    this.#log = openSync(logOf(order.folder, this.user), "a");
    this.#note("run");
  }

  get isIn(): boolean {
    return this.#isIn;
  }

  #note(lines: string): void {
    writeSync(this.#log, `${lines}\n`);
  }

  /** Is in, again and again, until it leaves. */
  async live(): Promise<void> {
    while (!this.#leaving) {
      const client = this.#newClient();
      try {
        await client.login(this.user, PASSWORD);
        this.#isIn = true;
        const reason = await client.ended;
        if (!this.#leaving) this.#note(`ended ${reason}`);
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        const refused = ["unknown_user", "wrong_password", "bad_request", "locked_out", "unknown_session"];
        if (refused.includes(code ?? "")) this.#note(`fault login: ${(error as Error).message}`);
        client.close();
        await Bun.sleep(200);
      }
      this.#isIn = false;
    }
  }

  #newClient(): ChatClient {
    const { folder, port } = this.#order;
    const client = new ChatClient({
      host: "127.0.0.1",
      port,
      session: isCallback(this.#index) ? "callback" : "resumable",
      store: (user) => this.#watched(new StateFile(join(folder, "state"), user, "127.0.0.1", 1, die)),
      onEvent: (event) => this.#show(event),
      onLost: () => this.#note("lost"),
      onBack: () => this.#note("back"),
      onRecovered: (request, again) => {
        const [verb, to, number] = request.split(" ");
        if (verb === "message") this.#note(`${again ? "o" : "u"} ${to} ${number} recovered`);
      },
    });
    this.#client = client;
    return client;
  }

  /** A store that logs what is saved, once it is. */
  #watched(store: StateStore): StateStore {
    return {
      load: () => store.load(),
      save: (state: ClientState) => {
        this.#reached("saving");
        store.save(state);
        let lines = "s";
        for (const { line } of state.unanswered) {
          const [verb, to, number] = line.split(" ", 3);
          if (verb !== "message" || this.#kept.has(`${to} ${number}`)) continue;
          this.#kept.add(`${to} ${number}`);
          lines += `\nk ${to} ${number}`;
        }
        if (state.token !== this.#token) lines += `\nlogin ${(this.#token = state.token)}`;
        this.#note(lines);
        this.#reached("saved");
      },
    };
  }

  #show(event: ChatEvent): void {
    if (event.kind !== "message" && event.kind !== "stored") return;
    const number = Number.parseInt(event.text, 10);
    if (event.text === textOf(number)) this.#note(`r ${event.from} ${number}`);
    else this.#note(`fault torn: ${event.from} ${event.text.slice(0, 40)}`);
    this.#reached("shown");
  }

  /** Says the next message to one of its partners, unless too many wait for their answers. */
  say(random: Random): void {
    if (!this.#isIn || this.#client === null || this.unanswered >= UNANSWERED_MAX) return;
    if (random.oneIn(50)) return void this.#ask(this.#client);
    const to = nameOf((this.#index + random.pick(PARTNERS)) % this.#order.users);
    const number = (this.#numbers.get(to) ?? 0) + 1;
    this.#numbers.set(to, number);
    this.unanswered++;
    this.#note(`i ${to} ${number}`);
    this.#client.message(to, textOf(number)).then(
      () => this.#answered(`o ${to} ${number}`),
      (error: unknown) => this.#answered(`${verdictOn(error)} ${to} ${number} ${codeOf(error)}`),
    );
  }

  /** A question whose answer can be told from a message's: replies must not change places. */
  async #ask(client: ChatClient): Promise<void> {
    this.unanswered++;
    const { names } = await client.online().catch(() => ({ names: ["u0"] }));
    this.#answered(names.every((name) => /^u\d+$/.test(name)) ? "online" : `fault reply: ${names.join(" ")}`);
  }

  #answered(line: string): void {
    this.unanswered--;
    this.#note(line);
  }

  async leave(): Promise<void> {
    this.#leaving = true;
    await this.#client?.logout().catch(() => {});
    this.#client?.close();
  }
}

function codeOf(error: unknown): string {
  return error instanceof ChatError ? error.code : String(error);
}

/** `u` when nobody knows what became of it, `n` when it was not acted on. */
function verdictOn(error: unknown): "u" | "n" {
  return ["unknown_outcome", "closed"].includes(codeOf(error)) ? "u" : "n";
}

/** The last number that each user had given to a message to each other one, from the logs of earlier runs. */
async function numbersOf({ folder }: ClientsOrder, user: string): Promise<Map<string, number>> {
  const log = Bun.file(logOf(folder, user));
  const numbers = new Map<string, number>();
  if (!(await log.exists())) return numbers;
  for (const [, to, number] of (await log.text()).matchAll(/^i (\S+) (\d+)$/gm)) numbers.set(to!, Number(number));
  return numbers;
}

/**
 * The program: hears `stop` (say nothing more), `leave`, `die <instant> <count>`; says `in` and `quiet`, or `out` and
 * `busy` with the users who are.
 */
async function main(): Promise<void> {
  const order = JSON.parse(process.argv[2]!) as ClientsOrder;
  const random = new Random(order.seed);
  let doom: { instant: Instant; left: number } | null = null;
  const reached = (instant: Instant): void => {
    if (doom?.instant === instant && --doom.left <= 0) process.kill(process.pid, "SIGKILL");
  };
  const talkers: Talker[] = [];
  for (let index = order.first; index < order.first + order.count; index++) {
    talkers.push(new Talker(order, index, await numbersOf(order, nameOf(index)), reached));
  }
  let stopped = order.rate === 0;
  let said = "";
  const beat = setInterval(() => {
    for (let left = (order.rate * BEAT_MS) / 1000; !stopped && random.below(1000) < left * 1000; left--) {
      random.pick(talkers).say(random);
    }
    const out = talkers.filter(({ isIn }) => !isIn);
    const busy = stopped ? talkers.filter(({ unanswered }) => unanswered > 0) : [];
    const waiting = [...out, ...busy].map(({ user }) => user).join(" ");
    const now = out.length > 0 ? `out ${waiting}` : !stopped ? "in" : busy.length > 0 ? `busy ${waiting}` : "quiet";
    if (now !== said) process.stdout.write(`${(said = now)}\n`);
  }, BEAT_MS);
  const input = createInterface({ input: process.stdin });
  input.on("line", (line) => {
    const [verb, instant, count] = line.split(" ");
    if (verb === "stop") stopped = true;
    if (verb === "die") doom = { instant: instant as Instant, left: Number(count) };
    if (verb !== "leave") return;
    clearInterval(beat);
    const all = Promise.all(talkers.map((talker) => talker.leave()));
    void Promise.race([all, Bun.sleep(LEAVE_MS)]).then(() => process.exit(0));
  });
  // Without its harness it is nobody's.
  input.on("close", () => process.exit(1));
  await Promise.all(talkers.map((talker) => talker.live()));
}

if (import.meta.main) await main();

/** Without its state a client keeps no promise, and there is nothing to be compared. */
function die(why: string): never {
  throw new Error(`cannot keep a state: ${why}`);
}
