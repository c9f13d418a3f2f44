/**
 * Clients that log in and out in a process of their own: each sends numbered messages to the others, present or absent,
 * and loses connections. ChurnClients is the handle to that process; soak/main.ts starts it.
 */
import { ChatClient, ChatError, type ChatEvent, type ClientState } from "../../../src/client/client.ts";
import { Random } from "../../support/random.ts";
import { linesOf, onCore, within } from "../../../bench/program.ts";
import { Proxy } from "../chaos/fault-proxy.ts";
import { ControlledProcess } from "../controlled-process.ts";
import type { Delivery } from "./verdict.ts";
import { Tally } from "../../../bench/load/tally.ts";
import { PASSWORD } from "../target.ts";

const MESSAGES_PER_LOGIN_MAX = 20;
const BETWEEN_MS_MAX = 900;
const AWAY_MS_MAX = 8_000;
const RETRY_MS = 200;
/** Each second, one connection in CUT_ODDS is cut. */
const CUT_ODDS = 20;
const DRAIN_MS = 30_000;
const LOGOUT_MS = 5_000;
const TEXT = "I was here, and left this for you";

/** JSON, the first line on the stdin of the process. Each further line requests the statistics so far. */
interface ChurnSpec {
  port: number;
  count: number;
  seed: number;
}

/** What the churn clients did, and how their messages were delivered. */
export interface ChurnStats extends Delivery {
  logins: number;
  cuts: number;
  sent: number;
  /** Messages to an absent user: `ok stored`. */
  stored: number;
}

export function churnClientName(index: number): string {
  return `v${index}`;
}

/** The handle to the process of the churn clients. */
export class ChurnClients {
  readonly #program: ControlledProcess<ChurnStats>;

  constructor(spec: ChurnSpec) {
    this.#program = new ControlledProcess("the churn clients", "test/system/soak/churn-clients.ts", spec, onCore(1));
  }

  /** The statistics so far. `lost` is final only after `finish`. */
  stats(): Promise<ChurnStats> {
    return this.#program.ask("visits");
  }

  /** All clients log in once more, receive the rest of their messages and log out. Returns the final statistics. */
  finish(): Promise<ChurnStats> {
    return this.#program.endInput();
  }

  stop(): Promise<void> {
    return this.#program.stop();
  }
}

/** What the clients share: the proxy, the numbers of the messages by pair, and their delivery. */
class ChurnState {
  readonly random: Random;
  readonly proxy: Proxy;
  readonly counts: ChurnStats = {
    logins: 0,
    cuts: 0,
    sent: 0,
    stored: 0,
    lost: 0,
    twice: 0,
    disordered: 0,
    faults: [],
  };
  readonly stopped = Promise.withResolvers<void>();
  isStopped = false;
  readonly #count: number;
  readonly #tally: Tally;
  /** Number of messages of each pair: [to * count + from]. */
  readonly #sent: Int32Array;

  constructor({ port, count, seed }: ChurnSpec) {
    this.random = new Random(seed);
    this.proxy = new Proxy(port);
    this.#count = count;
    this.#tally = new Tally(count * count);
    this.#sent = new Int32Array(count * count);
  }

  fault(what: string): void {
    if (this.counts.faults.length < 5) this.counts.faults.push(what);
  }

  /** The recipient of a user's next message, and the number of that message. */
  next(from: number): { to: number; number: number } {
    const to = this.random.below(this.#count);
    this.counts.sent++;
    return { to, number: this.#sent[to * this.#count + from]!++ };
  }

  received(to: number, from: number, number: number): void {
    this.#tally.received(to * this.#count + from, number);
  }

  get hasEverything(): boolean {
    return this.#tally.lost === 0 && this.#sent.every((sent, stream) => this.#tally.next(stream) >= sent);
  }

  /** Counts messages that have not arrived as lost. */
  end(): void {
    this.#sent.forEach((sent, stream) => this.#tally.end(stream, sent));
  }

  stats(): ChurnStats {
    const { lost, twice, disordered } = this.#tally;
    return { ...this.counts, lost, twice, disordered };
  }

  cutSome(): void {
    for (const connection of this.proxy.connections) {
      if (!this.random.oneIn(CUT_ODDS)) continue;
      connection.cut(this.random.oneIn(2));
      this.counts.cuts++;
    }
  }
}

/** One user: logs in, sends some messages, and logs out or disconnects; then again. */
class ChurnClient {
  readonly #shared: ChurnState;
  readonly #index: number;
  #client: ChatClient | null = null;
  #state: ClientState | null = null;

  constructor(shared: ChurnState, index: number) {
    this.#shared = shared;
    this.#index = index;
  }

  /** Logs in and out until the end, and stays logged in then. */
  async run(): Promise<void> {
    const { random } = this.#shared;
    while (!this.#shared.isStopped) {
      await this.#logIn();
      for (let left = random.between(1, MESSAGES_PER_LOGIN_MAX); left > 0 && !this.#shared.isStopped; left--) {
        await this.#wait(random.below(BETWEEN_MS_MAX));
        this.#send();
      }
      if (this.#shared.isStopped) break;
      if (random.oneIn(2)) await this.logOut();
      else this.#disconnect();
      await this.#wait(random.below(AWAY_MS_MAX));
    }
    if (this.#client === null) await this.#logIn();
  }

  #wait(ms: number): Promise<unknown> {
    return Promise.race([Bun.sleep(ms), this.#shared.stopped.promise]);
  }

  async #logIn(): Promise<void> {
    const shared = this.#shared;
    for (;;) {
      const client = new ChatClient({
        host: "127.0.0.1",
        port: shared.proxy.port,
        session: "resumable",
        store: () => ({ load: () => this.#state, save: (state) => void (this.#state = state) }),
        onEvent: (event) => this.#received(event),
        onRecovered: (_request, error) => this.#refused(error),
      });
      try {
        await client.login(churnClientName(this.#index), PASSWORD);
        this.#client = client;
        shared.counts.logins++;
        void client.ended.then((reason) => {
          if (this.#client === client) shared.fault(`a session ended: ${reason}`);
        });
        return;
      } catch (error) {
        // The connection was cut during the login. Another failure is reported, and repeats at the next attempt.
        if (error instanceof ChatError) this.#refused(error);
        client.close();
        await Bun.sleep(RETRY_MS);
      }
    }
  }

  #received(event: ChatEvent): void {
    if (event.kind !== "message" && event.kind !== "stored") return;
    const [, from] = /^v(\d+)$/.exec(event.from) ?? [];
    if (from !== undefined) this.#shared.received(this.#index, Number(from), Number.parseInt(event.text, 10));
  }

  #send(): void {
    const shared = this.#shared;
    const { to, number } = shared.next(this.#index);
    this.#client!.message(churnClientName(to), `${number} ${TEXT}`).then(
      (outcome) => (shared.counts.stored += Number(outcome === "stored")),
      (error) => this.#refused(error),
    );
  }

  /**
   * A request without a reply at a disconnect is repeated at the next login, or its outcome is unknown because the
   * server had acted on it already. The message must arrive in both cases.
   */
  #refused(error: ChatError | null): void {
    if (error === null || error.code === "closed" || error.code === "unknown_outcome") return;
    this.#shared.fault(`a request was refused: ${error.message}`);
  }

  async logOut(): Promise<void> {
    const client = this.#client;
    this.#client = null;
    await client?.logout().catch((error) => this.#refused(error));
  }

  #disconnect(): void {
    const client = this.#client;
    this.#client = null;
    client?.close();
  }
}

async function main(): Promise<void> {
  const lines = linesOf(Bun.stdin.stream());
  const spec = JSON.parse((await lines.next()).value as string) as ChurnSpec;
  const shared = new ChurnState(spec);
  const clients = Array.from({ length: spec.count }, (_, index) => new ChurnClient(shared, index));
  const printStats = (): void => void process.stdout.write(`${JSON.stringify(shared.stats())}\n`);
  const cutter = setInterval(() => shared.cutSome(), 1_000);
  const runs = Promise.all(clients.map((client) => client.run()));
  for await (const _ of lines) printStats();
  clearInterval(cutter);
  shared.isStopped = true;
  shared.stopped.resolve();
  const untilMs = performance.now() + DRAIN_MS;
  if ((await within(runs, DRAIN_MS)) === null) shared.fault("not all clients logged in at the end");
  while (!shared.hasEverything && performance.now() < untilMs) await Bun.sleep(50);
  shared.end();
  await within(Promise.all(clients.map((client) => client.logOut())), LOGOUT_MS);
  printStats();
  process.exit(0);
}

if (import.meta.main) await main();
