import { ChatClient, ChatError, type ChatEvent, type ClientState } from "../../../src/client/client.ts";
import { Random } from "../../support/random.ts";
import { linesOf, onCore, within } from "../../../bench/program.ts";
import { Proxy } from "../chaos/fault-proxy.ts";
import { ControlledProcess } from "../controlled-process.ts";
import type { Delivery } from "./verdict.ts";
import { Tally } from "../../../bench/load/tally.ts";
import { PASSWORD } from "../target.ts";

const STAY_MESSAGES_MAX = 20;
const BETWEEN_MS_MAX = 900;
const AWAY_MS_MAX = 8_000;
const RETRY_MS = 200;
/** Of their connections, one in so many is cut a second. */
const CUT_ONE_IN = 20;
const DRAIN_MS = 30_000;
const LOGOUT_MS = 5_000;
const TEXT = "I was here, and left this for you";

/** What visitors are told: JSON, the first line on their standard input. Each line behind it asks for their visits. */
interface VisitorsOrder {
  port: number;
  count: number;
  seed: number;
}

/** How often they came, what they said and what became of that. */
export interface Visits extends Delivery {
  came: number;
  cuts: number;
  said: number;
  /** To somebody who was away. */
  stored: number;
}

export function churnClientName(index: number): string {
  return `v${index}`;
}

/** People who come and go in a process of their own: each message between them is numbered, and must come once. */
export class ChurnClients {
  readonly #program: ControlledProcess<Visits>;

  constructor(order: VisitorsOrder) {
    this.#program = new ControlledProcess("the visitors", "test/system/soak/churn-clients.ts", order, onCore(1));
  }

  /** How it went so far; nothing is lost before the end. */
  visits(): Promise<Visits> {
    return this.#program.ask("visits");
  }

  /** Everybody comes once more, gets what is left for them, and goes. */
  leave(): Promise<Visits> {
    return this.#program.finish();
  }

  stop(): Promise<void> {
    return this.#program.stop();
  }
}

/** Where they all meet: what they said to each other, by pair, and what came of it. */
class ChurnState {
  readonly random: Random;
  readonly proxy: Proxy;
  readonly visits: Visits = { came: 0, cuts: 0, said: 0, stored: 0, lost: 0, twice: 0, disordered: 0, faults: [] };
  readonly over = Promise.withResolvers<void>();
  isOver = false;
  readonly #count: number;
  readonly #tally: Tally;
  /** How many messages there were of each pair: [to * count + from]. */
  readonly #said: Int32Array;

  constructor({ port, count, seed }: VisitorsOrder) {
    this.random = new Random(seed);
    this.proxy = new Proxy(port);
    this.#count = count;
    this.#tally = new Tally(count * count);
    this.#said = new Int32Array(count * count);
  }

  fault(what: string): void {
    if (this.visits.faults.length < 5) this.visits.faults.push(what);
  }

  /** Whom a user writes to next, and the number of that message. */
  next(from: number): { to: number; number: number } {
    const to = this.random.below(this.#count);
    this.visits.said++;
    return { to, number: this.#said[to * this.#count + from]!++ };
  }

  came(to: number, from: number, number: number): void {
    this.#tally.came(to * this.#count + from, number);
  }

  get hasEverything(): boolean {
    return this.#tally.lost === 0 && this.#said.every((said, stream) => this.#tally.next(stream) >= said);
  }

  /** Nothing more comes. */
  end(): void {
    this.#said.forEach((said, stream) => this.#tally.end(stream, said));
  }

  told(): Visits {
    const { lost, twice, disordered } = this.#tally;
    return { ...this.visits, lost, twice, disordered };
  }

  cutSome(): void {
    for (const connection of this.proxy.connections) {
      if (!this.random.oneIn(CUT_ONE_IN)) continue;
      connection.cut(this.random.oneIn(2));
      this.visits.cuts++;
    }
  }
}

/** Comes, says something to some of the others, who may be away, and goes: in order, or without a word. */
class ChurnClient {
  readonly #square: ChurnState;
  readonly #index: number;
  #client: ChatClient | null = null;
  #state: ClientState | null = null;

  constructor(square: ChurnState, index: number) {
    this.#square = square;
    this.#index = index;
  }

  /** Comes and goes until that is over, and is there then. */
  async live(): Promise<void> {
    const { random } = this.#square;
    while (!this.#square.isOver) {
      await this.#come();
      for (let left = random.between(1, STAY_MESSAGES_MAX); left > 0 && !this.#square.isOver; left--) {
        await this.#wait(random.below(BETWEEN_MS_MAX));
        this.#say();
      }
      if (this.#square.isOver) break;
      if (random.oneIn(2)) await this.leave();
      else this.#vanish();
      await this.#wait(random.below(AWAY_MS_MAX));
    }
    if (this.#client === null) await this.#come();
  }

  #wait(ms: number): Promise<unknown> {
    return Promise.race([Bun.sleep(ms), this.#square.over.promise]);
  }

  async #come(): Promise<void> {
    const square = this.#square;
    for (;;) {
      const client = new ChatClient({
        host: "127.0.0.1",
        port: square.proxy.port,
        session: "resumable",
        store: () => ({ load: () => this.#state, save: (state) => void (this.#state = state) }),
        onEvent: (event) => this.#hear(event),
        onRecovered: (_request, error) => this.#refused(error),
      });
      try {
        await client.login(churnClientName(this.#index), PASSWORD);
        this.#client = client;
        square.visits.came++;
        void client.ended.then((reason) => {
          if (this.#client === client) square.fault(`a session has ended: ${reason}`);
        });
        return;
      } catch (error) {
        // The connection was cut meanwhile; else it is a fault, and will be one the next time.
        if (error instanceof ChatError) this.#refused(error);
        client.close();
        await Bun.sleep(RETRY_MS);
      }
    }
  }

  #hear(event: ChatEvent): void {
    if (event.kind !== "message" && event.kind !== "stored") return;
    const [, from] = /^v(\d+)$/.exec(event.from) ?? [];
    if (from !== undefined) this.#square.came(this.#index, Number(from), Number.parseInt(event.text, 10));
  }

  #say(): void {
    const square = this.#square;
    const { to, number } = square.next(this.#index);
    this.#client!.message(churnClientName(to), `${number} ${TEXT}`).then(
      (outcome) => (square.visits.stored += Number(outcome === "stored")),
      (error) => this.#refused(error),
    );
  }

  /**
   * What had no answer when it hung up is made again when it comes back, or its outcome is unknown since the server had
   * acted on it: either way it must arrive.
   */
  #refused(error: ChatError | null): void {
    if (error === null || error.code === "closed" || error.code === "unknown_outcome") return;
    this.#square.fault(`the server said: ${error.message}`);
  }

  async leave(): Promise<void> {
    const client = this.#client;
    this.#client = null;
    await client?.logout().catch((error) => this.#refused(error));
  }

  #vanish(): void {
    const client = this.#client;
    this.#client = null;
    client?.close();
  }
}

async function main(): Promise<void> {
  const lines = linesOf(Bun.stdin.stream());
  const order = JSON.parse((await lines.next()).value as string) as VisitorsOrder;
  const square = new ChurnState(order);
  const visitors = Array.from({ length: order.count }, (_, index) => new ChurnClient(square, index));
  const tell = (): void => void process.stdout.write(`${JSON.stringify(square.told())}\n`);
  const cutter = setInterval(() => square.cutSome(), 1_000);
  const lives = Promise.all(visitors.map((visitor) => visitor.live()));
  for await (const _ of lines) tell();
  clearInterval(cutter);
  square.isOver = true;
  square.over.resolve();
  const untilMs = performance.now() + DRAIN_MS;
  if ((await within(lives, DRAIN_MS)) === null) square.fault("not everybody came back");
  while (!square.hasEverything && performance.now() < untilMs) await Bun.sleep(50);
  square.end();
  await within(Promise.all(visitors.map((visitor) => visitor.leave())), LOGOUT_MS);
  tell();
  process.exit(0);
}

if (import.meta.main) await main();
