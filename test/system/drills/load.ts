/** Users with resumable sessions that send messages all the time, and what became of each message. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { within } from "../../../bench/program.ts";
import { freePort } from "../../support/free-port.ts";
import type { Random } from "../../support/random.ts";
import { Proxy, type Target } from "../chaos/fault-proxy.ts";
import { Group } from "../chaos/group.ts";
import { type DeliveryTally, Verdict } from "../chaos/verdict.ts";

export interface LoadSpec {
  folder: string;
  users: number;
  /** Messages per second of all users together. */
  rate: number;
  shards: number;
}

const USERS_PER_PROCESS = 250;
const STEP_MS = 50;
/** Limits: until all users are logged in; until all requests have replies, and all messages have arrived; until an exit. */
const READY_MS = 120_000;
const SETTLE_MS = 60_000;
const ARRIVE_MS = 15_000;
const EXIT_MS = 30_000;

export class Load {
  readonly verdict: Verdict;
  readonly #groups: Group[] = [];
  readonly #fault: (what: string) => void;

  /** `target` is where the next connection goes. */
  constructor(spec: LoadSpec, target: () => Target, random: Random, fault: (what: string) => void) {
    const { folder, users, rate, shards } = spec;
    this.#fault = fault;
    this.verdict = new Verdict(folder, users, shards, "resumable");
    mkdirSync(join(folder, "state"));
    const size = Math.min(users, USERS_PER_PROCESS);
    for (let first = 0; first < users; first += size) {
      const proxy = new Proxy(target, null, undefined, freePort());
      const count = Math.min(size, users - first);
      const clients = { folder, port: proxy.port, first, count, users, rate: (rate * count) / users };
      this.#groups.push(new Group(proxy, { ...clients, sessions: "resumable" }, random, fault));
    }
  }

  /** Resolves when all users are logged in. */
  async start(): Promise<void> {
    for (const group of this.#groups) group.start();
    if (!(await this.#all("in", READY_MS))) throw new Error(`not all users logged in: ${this.#states}`);
  }

  /** Nobody sends any more, everything arrives, and all users log out. */
  async stop(): Promise<DeliveryTally> {
    for (const group of this.#groups) group.writeLine("stop");
    if (!(await this.#all("quiet", SETTLE_MS))) this.#fault(`some requests have no reply: ${this.#states}`);
    const endMs = performance.now() + ARRIVE_MS;
    for (this.verdict.read(); this.verdict.tally().lost.length > 0 && performance.now() < endMs; this.verdict.read())
      await Bun.sleep(STEP_MS * 4);
    for (const group of this.#groups) group.writeLine("leave");
    const ended = Promise.all(this.#groups.map((group) => group.ended));
    if ((await within(ended, EXIT_MS)) === null)
      this.#fault("a client process does not end after its users logged out");
    this.verdict.read();
    return this.verdict.tally();
  }

  async #all(state: string, ms: number): Promise<boolean> {
    const endMs = performance.now() + ms;
    while (!this.#groups.every((group) => group.state === state)) {
      if (performance.now() > endMs) return false;
      await Bun.sleep(STEP_MS);
    }
    return true;
  }

  get #states(): string {
    return this.#groups.map(({ state }) => (state || "not running").slice(0, 200)).join("; ");
  }

  /** Closes the ports; the processes end with this one. */
  close(): void {
    for (const group of this.#groups) group.stop();
  }
}
