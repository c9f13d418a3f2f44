/**
 * Which shard of a cluster a user and a token belong to. Each server of the cluster, and each version, must find the
 * same: a user's messages are in the log of that shard.
 */

import { fnv1a } from "./ascii.ts";

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/** Random characters of a token: 128 bits in base64url. One of a cluster has two characters before them. */
const RANDOM_CHARACTERS = 22;

/** The shard of the user with the name bytes[start..end): FNV-1a (32 bits), modulo the number of shards. */
export function shardOf(bytes: Uint8Array, start: number, end: number, shards: number): number {
  return fnv1a(bytes, start, end) % shards;
}

/** The beginning of the tokens of a shard: its number in two characters of base64url, the high one first. */
export function tokenPrefix(shard: number): string {
  return ALPHABET[shard >> 6]! + ALPHABET[shard & 63]!;
}

/** The shard of a token; "any" for one from before the cluster, which has no shard; null when no shard has it. */
export function shardOfToken(token: string, shards: number): number | "any" | null {
  if (token.length === RANDOM_CHARACTERS) return "any";
  if (token.length !== RANDOM_CHARACTERS + 2) return null;
  const shard = ALPHABET.indexOf(token[0]!) * 64 + ALPHABET.indexOf(token[1]!);
  return shard < shards ? shard : null;
}
