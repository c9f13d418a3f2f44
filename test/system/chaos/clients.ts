/**
 * A process of chaos clients: users that send numbered messages and write a log of everything that happens to them. The
 * log survives a kill of the process; verdict.ts compares the logs of all users.
 */
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
import type { BaseClient, BaseClientOptions } from "../../../src/client/base-client.ts";
import { ChatClient as WebChatClient } from "../../../src/client/web-client.ts";
import { StateFile } from "../../../src/terminal/state-file.ts";
import { Random } from "../../support/random.ts";
import { Block, type BlockState, mayBlock } from "./blocks.ts";

/** The argument of the process, as JSON. */
export interface ClientsSpec {
  folder: string;
  /** That of `--web` for users of whom `isWeb` is true. */
  port: number;
  /** Its users are `first` to `first + count - 1`. */
  first: number;
  count: number;
  /** Number of users of all processes. */
  users: number;
  /** Messages per second of its users together. With 0 they only receive, and half of them have lost their state. */
  rate: number;
  seed: number;
  /** Sessions of all kinds, or only resumable ones over TCP. */
  sessions: "all" | "resumable";
}

/** Points at which the process can kill itself on request, since a kill from outside rarely hits them. */
export type KillPoint = "shown" | "saving" | "saved";
export const KILL_POINTS: readonly KillPoint[] = ["shown", "saving", "saved"];

export const PASSWORD = "secret";
/** The partners of a user, as distances in the list of users; 0 is the user itself. */
const PARTNERS = [0, 1, 2, 5, 11];
const UNANSWERED_MAX = 30;
const STEP_MS = 40;
const LEAVE_MS = 15_000;

export function nameOf(index: number): string {
  return `u${index}`;
}

export function logOf(folder: string, user: string): string {
  return join(folder, `${user}.log`);
}

/** Number of users of a process, except of the last one. */
export function usersPerProcess(users: number): number {
  return Math.min(40, Math.ceil(users / 3));
}

/** Of three processes, the users of one connect over WebSocket. */
export function isWeb(index: number, users: number): boolean {
  return Math.floor(index / usersPerProcess(users)) % 3 === 2;
}

/** One user in eight has a callback session, except over WebSocket. */
export function isCallback(index: number, users: number): boolean {
  return index % 8 === 3 && !isWeb(index, users);
}

/** One user in eight has a plain session: what is on its way is lost with the connection. */
export function isPlain(index: number, users: number): boolean {
  return index % 8 === 5 && !isWeb(index, users);
}

/** The text of a numbered message. Lengths vary and some characters are not ASCII, so cuts hit every part of a line. */
export function textOf(number: number): string {
  const long = number % 41 === 7 ? 2500 : 0;
  return `${number} ${"gräße"[number % 5]!.repeat(1 + ((number * 37) % 90) + long / 2)}`;
}

/**
 * One user. Everything that happens is written to its log at once, one line per event:
 *
 *   run                        the process has started
 *   i <to> <n> <ms>            message n is about to be sent, at that time
 *   k <to> <n>                 a saved state contains message n
 *   o|u|n <to> <n> <code> <ms> it was accepted, has an unknown outcome, was refused
 *   r <from> <n> <ms>          message n was shown
 *   s                          everything shown before is in the saved state
 *   b <user> <state>           the state of a block
 *   lost|back <ms>             the connection was lost, is back
 *   login <token>              a new session
 *   ended <reason>             the session ended for good
 *   fault <words>              an error
 *
 * A broadcast is sent to `*` and shown as from `*<from>`.
 */
class ChaosUser {
  readonly user: string;
  readonly #spec: ClientsSpec;
  readonly #index: number;
  /** Descriptor of the log. */
  readonly #log: number;
  /** The number of the last message, by recipient. */
  readonly #numbers: Map<string, number>;
  /** Messages that a saved state contains, as `<to> <n>`. */
  readonly #saved = new Set<string>();
  /** Called at each KillPoint. */
  readonly #killPoint: (point: KillPoint) => void;
  #client: BaseClient | null = null;
  #isLoggedIn = false;
  #token = "";
  #isDisconnected = false;
  #isLeaving = false;
  pendingReplies = 0;
  /** The block that this user may set, and the one that may be set against this user. */
  readonly #block: Block | null = null;
  #blockedBy: Block | null = null;

  /** `others` are the users of this process with lower numbers; `earlier` is the log of earlier runs. */
  constructor(spec: ClientsSpec, others: readonly ChaosUser[], earlier: string, reached: (point: KillPoint) => void) {
    const index = spec.first + others.length;
    this.#spec = spec;
    this.#index = index;
    this.user = nameOf(index);
    this.#numbers = numbersIn(earlier);
    const other = this.#is(isCallback) ? undefined : others.find((user) => mayBlock(this.user, user.user));
    if (other !== undefined) this.#block = other.#blockedBy = new Block(this.user, other.user, blockIn(earlier));
    this.#killPoint = reached;
    this.#log = openSync(logOf(spec.folder, this.user), "a");
    this.#write("run");
  }

  #is(kind: (index: number, users: number) => boolean): boolean {
    return this.#spec.sessions === "all" && kind(this.#index, this.#spec.users);
  }

  get #isPlain(): boolean {
    return this.#is(isPlain);
  }

  get isLoggedIn(): boolean {
    return this.#isLoggedIn;
  }

  /** No request is without a reply, and the user can log out. */
  get isQuiet(): boolean {
    return !this.#isDisconnected && this.pendingReplies === 0;
  }

  #write(lines: string): void {
    writeSync(this.#log, `${lines}\n`);
  }

  /** Logs in, again and again, until the user logs out. */
  async run(): Promise<void> {
    while (!this.#isLeaving) {
      const client = this.#newClient();
      try {
        await client.login(this.user, PASSWORD);
        this.#isLoggedIn = true;
        const reason = await client.ended;
        if (!this.#isLeaving && !this.#isPlain) this.#write(`ended ${reason}`);
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        const refused = ["unknown_user", "wrong_password", "bad_request", "locked_out", "unknown_session"];
        if (refused.includes(code ?? "")) this.#write(`fault login: ${(error as Error).message}`);
        client.close();
        await Bun.sleep(200);
      }
      this.#isLoggedIn = false;
    }
  }

  #newClient(): BaseClient {
    const { folder, port } = this.#spec;
    const options: BaseClientOptions = {
      store: (user) => this.#loggingStore(new StateFile(join(folder, "state"), user, "127.0.0.1", 1, die)),
      onEvent: (event) => this.#received(event),
      onLost: () => this.#connectionChanged(true),
      onBack: () => this.#connectionChanged(false),
      onRecovered: (request, error) => {
        const [verb, to, number] = request.split(" ");
        const verdict = error === null ? "o" : isUnknown(error.code) ? "u" : "n";
        if (verb === "message") this.#write(`${verdict} ${to} ${number} ${error?.code ?? "recovered"} ${Date.now()}`);
      },
    };
    const session = this.#isPlain ? "plain" : this.#is(isCallback) ? "callback" : "resumable";
    this.#client = this.#is(isWeb)
      ? new WebChatClient({ ...options, url: `ws://127.0.0.1:${port}/chat` })
      : new ChatClient({ ...options, host: "127.0.0.1", port, session });
    return this.#client;
  }

  #connectionChanged(is: boolean): void {
    this.#isDisconnected = is;
    this.#write(`${is ? "lost" : "back"} ${Date.now()}`);
  }

  /** A store that writes to the log what was saved, after it was saved. */
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
    if (!("text" in event && "from" in event)) return;
    const number = Number.parseInt(event.text, 10);
    const from = event.kind === "broadcast" ? `*${event.from}` : event.from;
    if (event.text === textOf(number)) this.#write(`r ${from} ${number} ${Date.now()}`);
    else this.#write(`fault torn: ${from} ${event.text.slice(0, 40)}`);
    this.#killPoint("shown");
  }

  /** Sends one random request, unless too many have no reply. Most are messages to one of the partners. */
  send(random: Random): void {
    const client = this.#client;
    if (!this.#isLoggedIn || client === null || this.pendingReplies >= UNANSWERED_MAX) return;
    if (random.oneIn(50)) return void this.#askOnline(client);
    if (this.#block?.isPending === false && random.oneIn(6)) return void this.#changeBlock(client, this.#block);
    // Every user receives a broadcast: at these odds broadcasts cause about as many deliveries as messages.
    if (random.oneIn(Math.ceil(this.#spec.users / 2))) return this.#sendNumbered("*", (text) => client.broadcast(text));
    const partners = PARTNERS.map((distance) => nameOf((this.#index + distance) % this.#spec.users));
    if (this.#blockedBy !== null) partners.push(this.#blockedBy.by, this.#blockedBy.by);
    const to = random.pick(partners);
    this.#sendNumbered(to, (text) => client.message(to, text));
  }

  #sendNumbered(to: string, send: (text: string) => Promise<unknown>): void {
    const number = (this.#numbers.get(to) ?? 0) + 1;
    this.#numbers.set(to, number);
    this.pendingReplies++;
    this.#write(`i ${to} ${number} ${Date.now()}`);
    const asked = this.#blockedBy?.changes ?? 0;
    const block = (): BlockState => (to === this.#blockedBy?.by ? this.#blockedBy.stateSince(asked) : "free");
    send(textOf(number)).then(
      () => {
        this.#completed(`o ${to} ${number} ok ${Date.now()}`);
        if (block() === "blocked") this.#write(`fault blocked by ${to}, and ${number} was accepted`);
      },
      (error: unknown) => {
        const code = codeOf(error);
        this.#completed(`${isUnknown(code) ? "u" : "n"} ${to} ${number} ${code} ${Date.now()}`);
        if (code === "blocked" && block() === "free")
          this.#write(`fault not blocked by ${to}, and ${number} was refused as blocked`);
      },
    );
  }

  /** Requests `online`, whose reply differs from that of a message: replies must not change places. */
  async #askOnline(client: BaseClient): Promise<void> {
    this.pendingReplies++;
    const threat = this.#blockedBy;
    const asked = threat?.changes ?? 0;
    const { names } = await client.online().catch(() => ({ names: ["u0"] }));
    const isSeen = threat !== null && threat.stateSince(asked) === "blocked" && names.includes(threat.by);
    if (isSeen) this.#write(`fault blocked by ${threat.by}, and \`online\` lists that user`);
    this.#completed(names.every((name) => /^u\d+$/.test(name)) ? "online" : `fault reply: ${names.join(" ")}`);
  }

  /** Sends `block` or `unblock`. */
  async #changeBlock(client: BaseClient, block: Block): Promise<void> {
    const { other, state } = block;
    const wanted = state === "blocked" ? "free" : "blocked";
    this.pendingReplies++;
    block.isPending = true;
    block.set("unknown");
    this.#write(`b ${other} unknown`);
    const request = wanted === "blocked" ? client.block(other) : client.unblock(other);
    const code = await request.then(() => "ok", codeOf);
    const isDone = code === "ok" || (state === "unknown" && ["already_blocked", "not_blocked"].includes(code));
    if (isDone) block.set(wanted);
    else if (code === "busy") block.set(state);
    else if (!isUnknown(code)) this.#write(`fault ${other} was ${state} and should be ${wanted}: ${code}`);
    block.isPending = false;
    this.#completed(`b ${other} ${block.state}`);
  }

  #completed(line: string): void {
    this.pendingReplies--;
    this.#write(line);
  }

  /** Logs out, which acknowledges what was shown. */
  async logOut(): Promise<void> {
    this.#isLeaving = true;
    const client = this.#client!;
    // Without a connection nothing is acknowledged, and a next run without its state would be shown messages again.
    while (this.#isDisconnected) await Bun.sleep(STEP_MS);
    // A callback session may have ended unnoticed. The second logout goes to the new session.
    const logout = client.logout().catch(() => client.logout());
    await logout.catch((error: unknown) => this.#write(`fault logout: ${codeOf(error)}`));
    client.close();
  }
}

function codeOf(error: unknown): string {
  return error instanceof ChatError ? error.code : String(error);
}

/** Whether an error code means that the outcome is unknown. */
function isUnknown(code: string): boolean {
  return code === "unknown_outcome" || code === "closed";
}

/** The number of the last message to each recipient, from the log of earlier runs. */
function numbersIn(log: string): Map<string, number> {
  const numbers = new Map<string, number>();
  for (const [, to, number] of log.matchAll(/^i (\S+) (\d+) \d+$/gm)) numbers.set(to!, Number(number));
  return numbers;
}

/** The last state of the user's block, from the log of earlier runs. */
function blockIn(log: string): BlockState {
  const last = [...log.matchAll(/^b \S+ (\w+)$/gm)].at(-1);
  return (last?.[1] as BlockState | undefined) ?? "free";
}

/**
 * The program. Lines on stdin: `stop` (sends nothing more), `leave` (logs out and exits), `die <kill point> <count>`
 * (kills itself at the count-th kill point). Lines on stdout: `in` (all users are logged in), `quiet` (also all requests
 * have replies), `out <users>` (these are not logged in), `busy <users>` (these have requests without a reply).
 */
async function main(): Promise<void> {
  const spec = JSON.parse(process.argv[2]!) as ClientsSpec;
  const random = new Random(spec.seed);
  let kill: { point: KillPoint; left: number } | null = null;
  const reached = (point: KillPoint): void => {
    if (kill?.point === point && --kill.left <= 0) process.kill(process.pid, "SIGKILL");
  };
  const users: ChaosUser[] = [];
  while (users.length < spec.count) {
    const log = Bun.file(logOf(spec.folder, nameOf(spec.first + users.length)));
    users.push(new ChaosUser(spec, users, (await log.exists()) ? await log.text() : "", reached));
  }
  let stopped = spec.rate === 0;
  let reported = "";
  const timer = setInterval(() => {
    for (let left = (spec.rate * STEP_MS) / 1000; !stopped && random.below(1000) < left * 1000; left--) {
      random.pick(users).send(random);
    }
    const out = users.filter(({ isLoggedIn }) => !isLoggedIn);
    const busy = stopped ? users.filter(({ isLoggedIn, isQuiet }) => isLoggedIn && !isQuiet) : [];
    const waiting = [...out, ...busy].map(({ user }) => user).join(" ");
    const state = out.length > 0 ? `out ${waiting}` : !stopped ? "in" : busy.length > 0 ? `busy ${waiting}` : "quiet";
    if (state !== reported) process.stdout.write(`${(reported = state)}\n`);
  }, STEP_MS);
  const input = createInterface({ input: process.stdin });
  input.on("line", (line) => {
    const [verb, point, count] = line.split(" ");
    if (verb === "stop") stopped = true;
    if (verb === "die") kill = { point: point as KillPoint, left: Number(count) };
    if (verb !== "leave") return;
    clearInterval(timer);
    const all = Promise.all(users.map((user) => user.logOut()));
    void Promise.race([all.then(() => 0), Bun.sleep(LEAVE_MS).then(() => 1)]).then((code) => process.exit(code));
  });
  // The harness has ended.
  input.on("close", () => process.exit(1));
  await Promise.all(users.map((user) => user.run()));
}

if (import.meta.main) await main();

/** A client that cannot save its state cannot keep its promise, so the run is invalid. */
function die(why: string): never {
  throw new Error(`cannot save the state: ${why}`);
}
