import { createHash, scrypt } from "node:crypto";
import { promisify } from "node:util";
import { inSlices } from "../runtime/slices.ts";
import type { User } from "./credentials.ts";

const BYTES = 12;
/** The users are sorted in so many parts: a million take more than a second at once. */
const PARTS = 1024;

/**
 * Identifies users and passwords, in any order: servers of a cluster compare it. It can be read by operators, who must
 * not be able to try passwords with it: so it is as slow to compute as the hash of a password. A thread does that, and
 * the rest is done in slices.
 */
export async function fingerprintOf(users: readonly User[]): Promise<string> {
  const digest = await inSlices(digesting(users));
  const key = (await promisify(scrypt)(digest, "heartline credentials", BYTES)) as Buffer;
  return key.toString("hex");
}

function* digesting(users: readonly User[]): Generator<void, Buffer> {
  const parts: string[][] = Array.from({ length: PARTS }, () => []);
  for (const { name, password } of users) {
    parts[Bun.hash.crc32(name) % PARTS]!.push(`${name} ${password}\n`);
    yield;
  }
  const hash = createHash("sha256");
  for (const part of parts) {
    hash.update(part.sort().join(""));
    yield;
  }
  return hash.digest();
}
