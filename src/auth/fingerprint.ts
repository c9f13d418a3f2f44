import { scrypt } from "node:crypto";
import { promisify } from "node:util";
import type { User } from "./credentials.ts";

const BYTES = 12;

/**
 * Identifies users and passwords, in any order: servers of a cluster compare it. It can be read by operators, who must
 * not be able to try passwords with it: so it is as slow to compute as a password's hash. A thread computes it.
 */
export async function fingerprintOf(users: readonly User[]): Promise<string> {
  const text = users
    .map(({ name, password }) => `${name} ${password}`)
    .sort()
    .join("\n");
  const key = (await promisify(scrypt)(text, "heartline credentials", BYTES)) as Buffer;
  return key.toString("hex");
}
