/** The servers of a cluster: which of them owns which shard, who takes clients, and the times without service. */
import type { Member } from "./member.ts";
import { Outages } from "./outages.ts";

const POLL_MS = 50;
/** Limits: until a restarted server takes clients; until each shard has an owner, on a busy machine. */
export const READY_MS = 60_000;
const SERVED_MS = 120_000;

export class Members {
  readonly all: Member[] = [];
  /** By shard; null before the first one. */
  readonly owners: (Member | null)[];
  /** Those that took clients when they were last asked. */
  ready: Member[] = [];
  /** How often another server became the owner of a shard. */
  takeovers = 0;
  readonly outages = new Outages();
  #poll: Timer | null = null;
  #isPolling = false;

  readonly #pollMs: number;

  /** `pollMs`: how often each server is asked. */
  constructor(shards: number, pollMs = POLL_MS) {
    this.#pollMs = pollMs;
    this.owners = Array.from({ length: shards }, () => null);
  }

  /** Starts a server. */
  add(member: Member): void {
    this.all.push(member);
    member.start();
    this.#poll ??= setInterval(() => void this.#findOwners(), this.#pollMs);
  }

  /** Ends a server for good, as an operator does. */
  async retire(member: Member): Promise<void> {
    await member.retire();
    this.all.splice(this.all.indexOf(member), 1);
  }

  /** Ends a server, which is started again. Resolves when it takes clients, after `limitMs` at the latest. */
  async restart(member: Member, limitMs = READY_MS): Promise<void> {
    const { starts } = member;
    const endMs = performance.now() + limitMs;
    member.signal("SIGTERM");
    while (performance.now() < endMs && (member.starts === starts || !(await member.look()).isReady))
      await Bun.sleep(POLL_MS);
  }

  isOwner(member: Member): boolean {
    return this.owners.includes(member);
  }

  /** Notes the owners, and who takes clients. */
  async #findOwners(): Promise<void> {
    if (this.#isPolling) return;
    this.#isPolling = true;
    const members = [...this.all];
    const seen = await Promise.all(members.map((member) => member.look()));
    this.#isPolling = false;
    for (const [shard, before] of this.owners.entries()) {
      // A deposed owner that has not noticed it yet answers nothing; both may be ready for a moment.
      const owners = members.filter((_, i) => seen[i]!.shard === shard);
      this.outages.seen(shard, owners.length > 0);
      const owner = owners.find((member) => member !== before) ?? owners[0] ?? null;
      if (owner === null || owner === before) continue;
      if (before !== null) this.takeovers++;
      this.owners[shard] = owner;
    }
    const ready = members.filter((_, i) => seen[i]!.isReady);
    if (ready.length > 0) this.ready = ready;
  }

  /** Resolves when each shard has an owner, with links to all others. Rejects when that takes too long. */
  async served(): Promise<void> {
    const shards = this.owners.length;
    const endMs = performance.now() + SERVED_MS;
    for (;;) {
      const looks = await Promise.all(this.all.map((member) => member.look()));
      const owners = looks.filter(({ shard }) => shard !== null);
      const linked = owners.filter(({ links }) => links === shards - 1);
      if (new Set(linked.map(({ shard }) => shard)).size === shards) return;
      if (performance.now() > endMs)
        throw new Error(`not all shards have an owner with its links: ${JSON.stringify(owners)}`);
      await Bun.sleep(POLL_MS);
    }
  }

  /** Nothing is started again, and everything may end. */
  stop(): void {
    if (this.#poll !== null) clearInterval(this.#poll);
    for (const member of this.all) member.stop();
  }
}
