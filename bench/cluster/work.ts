/** What bench:cluster measures: which users exchange messages, at which servers they are, and how fast they send. */
import { shardOf } from "../../src/protocol/shard.ts";

export const TRAFFICS = ["same", "cross"] as const;
export const VIAS = ["owner", "gateway"] as const;
/** Both users of a pair are of the same shard, or of different ones. */
export type Traffic = (typeof TRAFFICS)[number];
/** Clients are connected to the owner of their shard, or to another server, which relays. */
export type Via = (typeof VIAS)[number];

/** One row of the report. With `shards` 0 it is one server without a cluster. */
export interface Work {
  shards: number;
  traffic: Traffic;
  via: Via;
}

export const EMBEDDED: Work = { shards: 0, traffic: "same", via: "owner" };

/** The works of a cluster; one shard has no traffic between shards. */
export function worksOf(shards: number, traffics: readonly Traffic[], vias: readonly Via[]): Work[] {
  const possible = traffics.filter((traffic) => shards > 1 || traffic === "same");
  return possible.flatMap((traffic) => vias.map((via) => ({ shards, traffic, via })));
}

export function nameOf({ shards, traffic, via }: Work): string {
  if (shards === 0) return "embedded";
  return `${shardCount(shards)}, ${traffic}, ${via}`;
}

export function shardCount(shards: number): string {
  return `${shards} ${shards === 1 ? "shard" : "shards"}`;
}

/** Servers of a cluster: one for each shard, and a spare when there would be no other server to relay. */
export function serversOf(shards: number): number {
  return Math.max(2, shards);
}

export interface PlacedUser<User> {
  user: User;
  shard: number;
}

/**
 * `count` of the users, which exchange messages in pairs: the first with the second and so on. Each shard has the same
 * number of them, and each pair of different shards the same number of pairs, as far as `count` allows.
 */
export function pairedUsers<User extends readonly [name: string, ...rest: unknown[]]>(
  users: readonly User[],
  count: number,
  shards: number,
  traffic: Traffic,
): PlacedUser<User>[] {
  const left: User[][] = Array.from({ length: shards }, () => []);
  for (const user of users) left[shardOf(Buffer.from(user[0]), 0, user[0].length, shards)]!.push(user);
  const next = (shard: number): PlacedUser<User> => {
    const user = left[shard]!.shift();
    if (user === undefined) throw new Error(`too few users of shard ${shard}`);
    return { user, shard };
  };
  return Array.from({ length: count / 2 }, (_, pair) => {
    const first = pair % shards;
    const distance = traffic === "same" ? 0 : 1 + (Math.floor(pair / shards) % (shards - 1));
    return [next(first), next((first + distance) % shards)];
  }).flat();
}

/** The server of a user, as an index: those that own a shard come first, by shard. */
export function serverOf(shard: number, via: Via, servers: number): number {
  return via === "owner" ? shard : (shard + 1) % servers;
}
