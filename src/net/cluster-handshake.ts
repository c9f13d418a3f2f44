/**
 * The first lines of a connection between two servers of a cluster, by which each proves that it knows the secret of
 * the cluster without sending it:
 *
 *     relay 1 <nonce>                    from the server that connects (a gateway); 1 is the version
 *     owner <epoch> <nonce> <proof>      from the owner of the shard, or `refused <words>` and a close
 *     proof <proof>                      from the gateway, with a PROXY header and the client's line after it
 *
 * A proof is an HMAC over everything that was said before and the side that says it, so none can be used again.
 */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import type { LineReader } from "../protocol/line-reader.ts";

/** The version of these lines and of what follows. */
export const CLUSTER_PORT_VERSION = 1;
const NONCE_BYTES = 16;

/** What the proofs of one connection are made of. */
export interface HandshakeFields {
  epoch: number;
  gatewayNonce: string;
  ownerNonce: string;
}

export function newNonce(): string {
  return randomBytes(NONCE_BYTES).toString("base64url");
}

export function proofOf(
  side: "gateway" | "owner",
  secret: Uint8Array,
  { epoch, gatewayNonce, ownerNonce }: HandshakeFields,
): string {
  const said = `${side} relay ${CLUSTER_PORT_VERSION} ${epoch} ${gatewayNonce} ${ownerNonce}`;
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
