/** One server of a cluster under chaos: it is started again whenever it ends. */
import { appendFileSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Program } from "../../../bench/program.ts";
import { freePort } from "../../support/free-port.ts";
import { type Host, LOOPBACK } from "../../support/hosts.ts";
import type { Random } from "../../support/random.ts";
import type { ServerObserver } from "./server.ts";

/** A server that does not answer within this time serves nobody. */
export const ANSWER_MS = 500;
/** A server that has ended starts again within this time. */
export const AWAY_MS = 3_000;
/** Errors that the faults explain. A server that starts while the engine is away ends with one. */
export const EXPECTED =
  /"event":"(deposed|engine_away|snapshot_failed|no_owner)"|cannot open (PostgreSQL|NATS|the cluster: .* try again$)/;

/** What a server says of itself. */
export interface Look {
  /** It takes clients. */
  isReady: boolean;
  /** The shard that it owns; null for a spare. */
  shard: number | null;
  /** Links to the owners of other shards. */
  links: number;
}

export interface MemberSpec {
  /** The program and its options, without those that are different for each server. */
  args: readonly string[];
  data: string;
  host?: Host;
  /** Lines of errors that are no faults. */
  expected?: RegExp;
}

const NOTHING: Look = { isReady: false, shard: null, links: 0 };

export class Member {
  readonly address: string;
  readonly port = freePort();
  readonly webPort = freePort();
  /** The file with its log. */
  readonly log: string;
  /** How often it was started. */
  starts = 0;
  readonly #http = freePort();
  readonly #args: string[];
  readonly #prefix: readonly string[];
  readonly #expected: RegExp;
  readonly #observer: Pick<ServerObserver, "fault">;
  readonly #random: Random;
  #program: Program | null = null;
  #isStopped = false;

  constructor(spec: MemberSpec, observer: Pick<ServerObserver, "fault">, random: Random) {
    const { args, data, host = LOOPBACK, expected = EXPECTED } = spec;
    const { address } = host;
    const clients = ["--host", address, "--port", String(this.port), "--web", String(this.webPort)];
    const ports = [...clients, "--cluster-listen", `${address}:0`, "--http", `${address}:${this.#http}`];
    this.#args = [...args, ...ports, "--data", data, "--admin-socket", join(data, "admin.sock")];
    this.address = address;
    this.#prefix = host.prefix;
    this.#expected = expected;
    this.#observer = observer;
    this.#random = random;
    mkdirSync(data);
    this.log = `${data}.log`;
  }

  start(): void {
    this.starts++;
    const program = new Program(
      this.#args,
      () => {},
      (line) => {
        appendFileSync(this.log, `${line}\n`);
        if (!/"level":[1-4]0/.test(line) && !this.#expected.test(line)) this.#observer.fault(`a server wrote: ${line}`);
      },
      this.#prefix,
    );
    this.#program = program;
    void program.ended.then(async () => {
      await Bun.sleep(this.#random.below(AWAY_MS));
      if (!this.#isStopped) this.start();
    });
  }

  signal(signal: NodeJS.Signals): void {
    if (this.#program?.isRunning === true) this.#program.kill(signal);
  }

  /** Resolves when the process that runs now has ended. */
  get ended(): Promise<unknown> {
    return this.#program!.ended;
  }

  /** Memory of its process. */
  get residentBytes(): number {
    const status = readFileSync(`/proc/${this.#program!.pid}/status`, "latin1");
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)![1]) * 1024;
  }

  async look(): Promise<Look> {
    try {
      const answer = await fetch(`http://${this.address}:${this.#http}/metrics`, {
        signal: AbortSignal.timeout(ANSWER_MS),
      });
      const metrics = await answer.text();
      const isReady = /^heartline_ready 1$/m.test(metrics);
      const [, shard] = /^heartline_cluster_owner\{shard="(\d+)"\} 1$/m.exec(metrics) ?? [];
      const [, links = "0"] = /^heartline_links (\d+)$/m.exec(metrics) ?? [];
      return { isReady, shard: isReady && shard !== undefined ? Number(shard) : null, links: Number(links) };
    } catch {
      return NOTHING;
    }
  }

  /** Resolves when it takes clients. */
  async ready(): Promise<void> {
    while (!(await this.look()).isReady) await Bun.sleep(20);
  }

  stop(): void {
    this.#isStopped = true;
    this.signal("SIGCONT");
  }

  /** Ends it as an operator does; it is not started again. */
  async retire(): Promise<void> {
    this.#isStopped = true;
    this.signal("SIGTERM");
    await this.ended;
  }
}
