import { beforeAll, describe, expect, test } from "bun:test";
import { Accounts } from "../../src/chat/accounts.ts";
import type { Account } from "../../src/chat/session.ts";
import { HASHES_WAITING_MAX } from "../../src/limits.ts";
import { NOTHING } from "../../src/server/fact.ts";
import { Passwords } from "../../src/server/passwords.ts";

const TOKEN = "t".repeat(22);
const [RIGHT, WRONG] = [Buffer.from("secret"), Buffer.from("secre")] as const;
let hash: string;

beforeAll(async () => {
  hash = await Bun.password.hash("secret", { algorithm: "argon2id", memoryCost: 8, timeCost: 1 });
});

function account(password: string): Account {
  return new Accounts().add("alice", password)!;
}

/** What sessions left is in this map, by user and token. */
function passwords(proofs = new Map<string, Uint8Array>()): Passwords {
  return new Passwords({ proof: (user, token) => proofs.get(`${user} ${token}`) ?? NOTHING });
}

test("a plain password is judged at once, and leaves no proof", () => {
  const alice = account("secret");
  const judged = ["secret", "secre", "secrets", "Secret", "", "s\0cret"].map((password) =>
    passwords().verify(alice, Buffer.from(password), null),
  );
  expect(judged).toEqual([true, false, false, false, false, false]);
  expect(passwords().prove(alice, RIGHT, TOKEN)).toHaveLength(0);
});

test("a hash is judged later, in the order in which it was asked", async () => {
  const judge = passwords();
  const alice = account(hash);
  const order: number[] = [];
  const verdicts = [RIGHT, WRONG, RIGHT].map(async (password, index) => {
    const verdict = await judge.verify(alice, password, null);
    order.push(index);
    return verdict;
  });
  expect(await Promise.all(verdicts)).toEqual([true, false, true]);
  expect(order).toEqual([0, 1, 2]);
});

test("a hash that cannot be judged is a fault of its own, and those behind it are judged", async () => {
  const judge = passwords();
  const bad = judge.verify(account("$argon2id$nonsense"), RIGHT, null) as Promise<boolean>;
  const good = judge.verify(account(hash), RIGHT, null);
  expect(bad).rejects.toThrow("InvalidEncoding");
  expect(await good).toBe(true);
});

test("only so many wait to be judged; when they are, there is room again", async () => {
  const judge = passwords();
  const alice = account(hash);
  const verdicts = Array.from({ length: HASHES_WAITING_MAX }, () => judge.verify(alice, RIGHT, null));
  expect(judge.verify(alice, RIGHT, null)).toBeNull();
  expect(new Set(await Promise.all(verdicts))).toEqual(new Set([true]));
  expect(await judge.verify(alice, WRONG, null)).toBe(false);
});

describe("with the token of an earlier session", () => {
  const known = (before: Account, password = RIGHT): Passwords =>
    passwords(new Map([[`alice ${TOKEN}`, passwords().prove(before, password, TOKEN)]]));

  test("the password that began it is judged at once", () => {
    const alice = account(hash);
    expect(known(alice).verify(alice, RIGHT, TOKEN)).toBe(true);
  });

  test.each([
    ["another password", (alice: Account) => known(alice).verify(alice, WRONG, TOKEN), false],
    ["another token", (alice: Account) => known(alice).verify(alice, RIGHT, "u".repeat(22)), true],
    ["no token", (alice: Account) => known(alice).verify(alice, RIGHT, null), true],
    ["a hash of before", (alice: Account) => known(account(`${hash}x`)).verify(alice, RIGHT, TOKEN), true],
    ["a session of a plain password", (alice: Account) => known(account("secret")).verify(alice, RIGHT, TOKEN), true],
  ])("%s is compared with the hash", async (_what, judge, verdict) => {
    const judged = judge(account(hash));
    expect(judged).toBeInstanceOf(Promise);
    expect(await judged).toBe(verdict);
  });
});
