/**
 * The first lines of a connection between two servers of a cluster, by which each proves that it knows the secret of
 * the cluster without sending it:
 *
 *     relay 1 <nonce> <shard>                     from a gateway, for a client of that shard; 1 is the version
 *     admin 1 <nonce> <shard>                     or from a server whose operator gives a command about that shard
 *     spare 1 <nonce> <shard>                     or from a spare, which says that it is there
 *     link 1 <nonce> <shard> <epoch>              or from the owner of another shard, which names its own
 *     owner <shard> <epoch> <nonce> <proof>       from the owner of the shard, or `refused <words>` and a close
 *     proof <proof>                               from the server that connects
 *
 * After the proof a gateway sends a PROXY header and the client's line (relay.ts), a server with an operator the
 * command (shard-admin.ts), a spare its address (spares.ts), and the owner of another shard `heard <n>`
 * (neighbour-link.ts). A proof is an HMAC over the side that says it and all words before it, so it cannot be used
 * again.
 */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import type { LineReader } from "../protocol/line-reader.ts";

/** The version of these lines and of what follows. */
export const CLUSTER_PORT_VERSION = 1;
const NONCE_BYTES = 16;

/** What another server may want of the owner of a shard; that of the owner of another shard is a link. */
export const PURPOSES = ["relay", "admin", "spare"] as const;
export type Purpose = (typeof PURPOSES)[number];

/** The owner of a shard: the record with which it claimed the shard is its epoch. */
export interface ShardOwner {
  shard: number;
  epoch: number;
}

/** What the proofs of one connection are made of: the first line, and what its receiver says. */
export interface HandshakeFields extends ShardOwner {
  first: string;
  ownerNonce: string;
}

export function newNonce(): string {
  return randomBytes(NONCE_BYTES).toString("base64url");
}

/** The first line for that purpose, to the owner of that shard. */
export function firstLine(kind: Purpose, nonce: string, shard: number): string {
  return `${kind} ${CLUSTER_PORT_VERSION} ${nonce} ${shard}`;
}

/** The first line of the owner of a shard to that of another one. */
export function linkLine(nonce: string, { shard, epoch }: ShardOwner): string {
  return `link ${CLUSTER_PORT_VERSION} ${nonce} ${shard} ${epoch}`;
}

export function proofOf(
  side: "dialer" | "owner",
  secret: Uint8Array,
  { first, shard, epoch, ownerNonce }: HandshakeFields,
): string {
  const said = `${side} ${first} owner ${shard} ${epoch} ${ownerNonce}`;
  return createHmac("sha256", secret).update(said).digest("base64url");
}

export function isProof(given: string, expected: string): boolean {
  const [a, b] = [Buffer.from(given), Buffer.from(expected)];
  return a.length === b.length && timingSafeEqual(a, b);
}

/** The words of the line that was read; null for a line that is too long. */
export function wordsOf({ tooLong, bytes, start, end }: LineReader): string[] | null {
  return tooLong ? null : Buffer.from(bytes.subarray(start, end)).toString("latin1").split(" ");
}

/** A nonce of the other side. */
export function isNonce(word: string | undefined): word is string {
  return word !== undefined && /^[\w-]{22}$/.test(word);
}

/** The number that a word is; NaN when it is none. */
export function numberOf(word: string | undefined): number {
  return word !== undefined && /^(0|[1-9]\d{0,14})$/.test(word) ? Number(word) : NaN;
}
