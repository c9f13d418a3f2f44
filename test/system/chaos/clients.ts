import { openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import {
  ChatClient,
  ChatError,
  type ChatEvent,
  type ClientState,
  type StateStore,
} from "../../../src/client/client.ts";
import { StateFile } from "../../../src/terminal/state-file.ts";
import { Random } from "../../support/random.ts";
import { Block, type BlockState, mayBlock } from "./blocks.ts";

/** What a process of clients is told by the harness. */
export interface ClientsSpec {
  folder: string;
  port: number;
  /** Its users are `first` to `first + count - 1` of so many. */
  first: number;
  count: number;
  users: number;
  /** Messages a second, of all its users together; 0 only listens, and every other user has lost the state. */
  rate: number;
  seed: number;
}

/** An instant at which the harness may have the process kill itself, since a kill from outside rarely hits it. */
export type KillPoint = "shown" | "saving" | "saved";
export const KILL_POINTS: readonly KillPoint[] = ["shown", "saving", "saved"];

export const PASSWORD = "secret";
/** How far away in the list the partners of a user are; everybody writes to themselves too. */
const PARTNERS = [0, 1, 2, 5, 11];
const UNANSWERED_MAX = 30;
const STEP_MS = 40;
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
 * <to> <n> <code>), accepted, unknown and refused; `r <from> <n>`, shown; `s`, all before it is saved; `b <user>
 * <state>`, a block; `lost`, `back` and `login`, of the session; `ended`, it does not come back; and `fault`, what must
 * never be. A broadcast is a message to `*`, and shown as one from `*<from>`.
 */
class ChaosUser {
  readonly user: string;
  readonly #spec: ClientsSpec;
  readonly #index: number;
  readonly #log: number;
  readonly #numbers: Map<string, number>;
  readonly #saved = new Set<string>();
  readonly #killPoint: (instant: KillPoint) => void;
  #client: ChatClient | null = null;
  #isIn = false;
  #token = "";
  #isDisconnected = false;
  #isLeaving = false;
  unanswered = 0;
  /** Whom it may block, and by whom it may be blocked. */
  readonly #block: Block | null = null;
  #blockedBy: Block | null = null;

  /** `others` are the users before it. */
  constructor(spec: ClientsSpec, others: readonly ChaosUser[], earlier: string, reached: (instant: KillPoint) => void) {
    const index = spec.first + others.length;
    this.#spec = spec;
    this.#index = index;
    this.user = nameOf(index);
    this.#numbers = numbersIn(earlier);
    const other = isCallback(index) ? undefined : others.find((user) => mayBlock(this.user, user.user));
    if (other !== undefined) this.#block = other.#blockedBy = new Block(this.user, other.user, blockIn(earlier));
    this.#killPoint = reached;
    this.#log = openSync(logOf(spec.folder, this.user), "a");
    this.#write("run");
  }

  get isIn(): boolean {
    return this.#isIn;
  }

  /** Nothing is on its way from here, and it can leave. */
  get isQuiet(): boolean {
    return !this.#isDisconnected && this.unanswered === 0;
  }

  #write(lines: string): void {
    writeSync(this.#log, `${lines}\n`);
  }

  /** Is in, again and again, until it leaves. */
  async run(): Promise<void> {
    while (!this.#isLeaving) {
      const client = this.#newClient();
      try {
        await client.login(this.user, PASSWORD);
        this.#isIn = true;
        const reason = await client.ended;
        if (!this.#isLeaving) this.#write(`ended ${reason}`);
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        const refused = ["unknown_user", "wrong_password", "bad_request", "locked_out", "unknown_session"];
        if (refused.includes(code ?? "")) this.#write(`fault login: ${(error as Error).message}`);
        client.close();
        await Bun.sleep(200);
      }
      this.#isIn = false;
    }
  }

  #newClient(): ChatClient {
    const { folder, port } = this.#spec;
    const client = new ChatClient({
      host: "127.0.0.1",
      port,
      session: isCallback(this.#index) ? "callback" : "resumable",
      store: (user) => this.#loggingStore(new StateFile(join(folder, "state"), user, "127.0.0.1", 1, die)),
      onEvent: (event) => this.#received(event),
      onLost: () => this.#connectionChanged(true),
      onBack: () => this.#connectionChanged(false),
      onRecovered: (request, error) => {
        const [verb, to, number] = request.split(" ");
        const verdict = error === null ? "o" : isUnknown(error.code) ? "u" : "n";
        if (verb === "message") this.#write(`${verdict} ${to} ${number} ${error?.code ?? "recovered"}`);
      },
    });
    this.#client = client;
    return client;
  }

  #connectionChanged(is: boolean): void {
    this.#isDisconnected = is;
    this.#write(is ? "lost" : "back");
  }

  /** A store that logs what is saved, once it is. */
  #loggingStore(store: StateStore): StateStore {
    return {
      load: () => (this.#spec.rate === 0 && this.#index % 2 === 1 ? null : store.load()),
      save: (state: ClientState) => {
        this.#killPoint("saving");
        store.save(state);
        let lines = "s";
        for (const { line } of state.unanswered) {
          const [verb, to, number] = line.split(" ", 3);
          if (verb !== "message" || this.#saved.has(`${to} ${number}`)) continue;
          this.#saved.add(`${to} ${number}`);
          lines += `\nk ${to} ${number}`;
        }
        if (state.token !== this.#token) lines += `\nlogin ${(this.#token = state.token)}`;
        this.#write(lines);
        this.#killPoint("saved");
      },
    };
  }

  #received(event: ChatEvent): void {
    if (!("text" in event)) return;
    const number = Number.parseInt(event.text, 10);
    const from = event.kind === "broadcast" ? `*${event.from}` : event.from;
    if (event.text === textOf(number)) this.#write(`r ${from} ${number}`);
    else this.#write(`fault torn: ${from} ${event.text.slice(0, 40)}`);
    this.#killPoint("shown");
  }

  /** Says the next message to one of its partners, or asks for something else, unless too much waits for its answer. */
  send(random: Random): void {
    const client = this.#client;
    if (!this.#isIn || client === null || this.unanswered >= UNANSWERED_MAX) return;
    if (random.oneIn(50)) return void this.#askOnline(client);
    if (this.#block?.isPending === false && random.oneIn(6)) return void this.#changeBlock(client, this.#block);
    // Everybody hears a broadcast: so seldom it is about as much as all messages.
    if (random.oneIn(Math.ceil(this.#spec.users / 2))) return this.#sendNumbered("*", (text) => client.broadcast(text));
    const partners = PARTNERS.map((distance) => nameOf((this.#index + distance) % this.#spec.users));
    if (this.#blockedBy !== null) partners.push(this.#blockedBy.by, this.#blockedBy.by);
    const to = random.pick(partners);
    this.#sendNumbered(to, (text) => client.message(to, text));
  }

  #sendNumbered(to: string, say: (text: string) => Promise<unknown>): void {
    const number = (this.#numbers.get(to) ?? 0) + 1;
    this.#numbers.set(to, number);
    this.unanswered++;
    this.#write(`i ${to} ${number}`);
    const asked = this.#blockedBy?.changes ?? 0;
    const block = (): BlockState => (to === this.#blockedBy?.by ? this.#blockedBy.stateSince(asked) : "free");
    say(textOf(number)).then(
      () => {
        this.#completed(`o ${to} ${number}`);
        if (block() === "blocked") this.#write(`fault blocked by ${to}, and ${number} was accepted`);
      },
      (error: unknown) => {
        const code = codeOf(error);
        this.#completed(`${isUnknown(code) ? "u" : "n"} ${to} ${number} ${code}`);
        if (code === "blocked" && block() === "free")
          this.#write(`fault not blocked by ${to}, who was not told ${number}`);
      },
    );
  }

  /** A question whose answer can be told from a message's: replies must not change places. */
  async #askOnline(client: ChatClient): Promise<void> {
    this.unanswered++;
    const threat = this.#blockedBy;
    const asked = threat?.changes ?? 0;
    const { names } = await client.online().catch(() => ({ names: ["u0"] }));
    const isSeen = threat !== null && threat.stateSince(asked) === "blocked" && names.includes(threat.by);
    if (isSeen) this.#write(`fault blocked by ${threat.by}, and sees who did it`);
    this.#completed(names.every((name) => /^u\d+$/.test(name)) ? "online" : `fault reply: ${names.join(" ")}`);
  }

  /** Blocks whom it may block, or takes it back. */
  async #changeBlock(client: ChatClient, block: Block): Promise<void> {
    const { other, state } = block;
    const wanted = state === "blocked" ? "free" : "blocked";
    this.unanswered++;
    block.isPending = true;
    block.set("unknown");
    this.#write(`b ${other} unknown`);
    const request = wanted === "blocked" ? client.block(other) : client.unblock(other);
    const code = await request.then(() => "ok", codeOf);
    const isDone = code === "ok" || (state === "unknown" && ["already_blocked", "not_blocked"].includes(code));
    if (isDone) block.set(wanted);
    else if (!isUnknown(code)) this.#write(`fault ${other} was ${state}, and to be ${wanted}: ${code}`);
    block.isPending = false;
    this.#completed(`b ${other} ${block.state}`);
  }

  #completed(line: string): void {
    this.unanswered--;
    this.#write(line);
  }

  /** Logs out, and so confirms what was shown. */
  async logOut(): Promise<void> {
    this.#isLeaving = true;
    const client = this.#client!;
    // A callback session may have ended without its client's noticing: the second time it has taken it up.
    const logout = client.logout().catch(() => client.logout());
    await logout.catch((error: unknown) => this.#write(`fault logout: ${codeOf(error)}`));
    client.close();
  }
}

function codeOf(error: unknown): string {
  return error instanceof ChatError ? error.code : String(error);
}

/** Nobody knows what became of it. */
function isUnknown(code: string): boolean {
  return code === "unknown_outcome" || code === "closed";
}

/** The last number that a user had given to a message to each other one, from the log of earlier runs. */
function numbersIn(log: string): Map<string, number> {
  const numbers = new Map<string, number>();
  for (const [, to, number] of log.matchAll(/^i (\S+) (\d+)$/gm)) numbers.set(to!, Number(number));
  return numbers;
}

/** What became of that user's block. */
function blockIn(log: string): BlockState {
  const last = [...log.matchAll(/^b \S+ (\w+)$/gm)].at(-1);
  return (last?.[1] as BlockState | undefined) ?? "free";
}

/**
 * The program: hears `stop` (say nothing more), `leave`, `die <instant> <count>`; says `in` and `quiet`, or `out` and
 * `busy` with the users who are.
 */
async function main(): Promise<void> {
  const spec = JSON.parse(process.argv[2]!) as ClientsSpec;
  const random = new Random(spec.seed);
  let doom: { instant: KillPoint; left: number } | null = null;
  const reached = (instant: KillPoint): void => {
    if (doom?.instant === instant && --doom.left <= 0) process.kill(process.pid, "SIGKILL");
  };
  const users: ChaosUser[] = [];
  while (users.length < spec.count) {
    const log = Bun.file(logOf(spec.folder, nameOf(spec.first + users.length)));
    users.push(new ChaosUser(spec, users, (await log.exists()) ? await log.text() : "", reached));
  }
  let stopped = spec.rate === 0;
  let said = "";
  const beat = setInterval(() => {
    for (let left = (spec.rate * STEP_MS) / 1000; !stopped && random.below(1000) < left * 1000; left--) {
      random.pick(users).send(random);
    }
    const out = users.filter(({ isIn }) => !isIn);
    const busy = stopped ? users.filter(({ isIn, isQuiet }) => isIn && !isQuiet) : [];
    const waiting = [...out, ...busy].map(({ user }) => user).join(" ");
    const now = out.length > 0 ? `out ${waiting}` : !stopped ? "in" : busy.length > 0 ? `busy ${waiting}` : "quiet";
    if (now !== said) process.stdout.write(`${(said = now)}\n`);
  }, STEP_MS);
  const input = createInterface({ input: process.stdin });
  input.on("line", (line) => {
    const [verb, instant, count] = line.split(" ");
    if (verb === "stop") stopped = true;
    if (verb === "die") doom = { instant: instant as KillPoint, left: Number(count) };
    if (verb !== "leave") return;
    clearInterval(beat);
    const all = Promise.all(users.map((user) => user.logOut()));
    void Promise.race([all.then(() => 0), Bun.sleep(LEAVE_MS).then(() => 1)]).then((code) => process.exit(code));
  });
  // Without its harness it is nobody's.
  input.on("close", () => process.exit(1));
  await Promise.all(users.map((user) => user.run()));
}

if (import.meta.main) await main();

/** Without its state a client keeps no promise, and there is nothing to be compared. */
function die(why: string): never {
  throw new Error(`cannot keep a state: ${why}`);
}
