import { beforeAll, describe, expect, test } from "bun:test";
import { Accounts } from "../../src/chat/accounts.ts";
import type { Account } from "../../src/chat/session.ts";
import { HASHES_WAITING_MAX } from "../../src/limits.ts";
import { NOTHING } from "../../src/storage/journal-entry.ts";
import { Passwords } from "../../src/auth/passwords.ts";

const TOKEN = "t".repeat(22);
const [RIGHT, WRONG] = [Buffer.from("secret"), Buffer.from("secre")] as const;
const STAYS = (): boolean => false;
let hash: string;

beforeAll(async () => {
  hash = await Bun.password.hash("secret", { algorithm: "argon2id", memoryCost: 8, timeCost: 1 });
});

function account(password: string): Account {
  return new Accounts().add("alice", password)!;
}

/** The proofs of earlier sessions, by user and token. */
function passwords(proofs = new Map<string, Uint8Array>()): Passwords {
  return new Passwords({ proof: (user, token) => proofs.get(`${user} ${token}`) ?? NOTHING });
}

test("a plain password is verified at once and leaves no proof", () => {
  const alice = account("secret");
  const judged = ["secret", "secre", "secrets", "Secret", "", "s\0cret"].map((password) =>
    passwords().verify(alice, Buffer.from(password), null, STAYS),
  );
  expect(judged).toEqual([true, false, false, false, false, false]);
  expect(passwords().prove(alice, RIGHT, TOKEN)).toHaveLength(0);
});

test("hashes are verified later, in the order of the requests", async () => {
  const judge = passwords();
  const alice = account(hash);
  const order: number[] = [];
  const verdicts = [RIGHT, WRONG, RIGHT].map(async (password, index) => {
    const verdict = await judge.verify(alice, password, null, STAYS);
    order.push(index);
    return verdict;
  });
  expect(await Promise.all(verdicts)).toEqual([true, false, true]);
  expect(order).toEqual([0, 1, 2]);
});

test("a hash that cannot be verified rejects its own request only", async () => {
  const judge = passwords();
  const bad = judge.verify(account("$argon2id$nonsense"), RIGHT, null, STAYS) as Promise<boolean>;
  const good = judge.verify(account(hash), RIGHT, null, STAYS);
  expect(bad).rejects.toThrow("InvalidEncoding");
  expect(await good).toBe(true);
});

test("the number of waiting verifications is bounded, and verdicts make room again", async () => {
  const judge = passwords();
  const alice = account(hash);
  const verdicts = Array.from({ length: HASHES_WAITING_MAX }, () => judge.verify(alice, RIGHT, null, STAYS));
  expect(judge.verify(alice, RIGHT, null, STAYS)).toBeNull();
  expect(new Set(await Promise.all(verdicts))).toEqual(new Set([true]));
  expect(await judge.verify(alice, WRONG, null, STAYS)).toBe(false);
});

test("the password of a closed connection is skipped at its turn", async () => {
  const judge = passwords();
  const alice = account(hash);
  const gone = Array.from({ length: HASHES_WAITING_MAX - 2 }, () => [false]);
  const first = judge.verify(alice, RIGHT, null, STAYS);
  const verdicts = gone.map((left) => judge.verify(account("$argon2id$nonsense"), RIGHT, null, () => left[0]!));
  const last = judge.verify(alice, WRONG, null, STAYS);
  for (const left of gone) left[0] = true;
  expect([await first, new Set(await Promise.all(verdicts)), await last]).toEqual([true, new Set([null]), false]);
  expect(await judge.verify(alice, RIGHT, null, STAYS)).toBe(true);
});

describe("a bcrypt hash", () => {
  /** Made by libxcrypt. The second password has two bytes of one character at 71 and 72. */
  const LONG = "x".repeat(30) + "y".repeat(50);
  const HASH = "$2y$04$Oj0AIXo6Og6b/z9S/lV3Gu.3U1sNzhOzaGUx1vDGHAHW5yqZUA4Sy";
  const SPLIT = `${"a".repeat(71)}ézzz`;
  const HASH_OF_SPLIT = "$2b$04$Oj0AIXo6Og6b/z9S/lV3Gu.DDi5Y1SpmcpmShNQpmBMiR.b6wNpGK";
  const HASH_OF_SECRET = "$2b$04$Oj0AIXo6Og6b/z9S/lV3GuC1ijec.GHDT.nL1aQjsQBsl6zNuJdPW";
  const verdict = async (password: string | Uint8Array, hash: string): Promise<boolean | null> =>
    passwords().verify(account(hash), Buffer.from(password as string), null, STAYS);

  test.each(["2a", "2b", "2y"])("a bcrypt hash $%s$ covers the first 72 bytes of a password", async (kind) => {
    const hash = HASH.replace("2y", kind);
    expect(await verdict(LONG, hash)).toBe(true);
    expect(await verdict(LONG.slice(0, 72), hash)).toBe(true);
    expect(await verdict(`${LONG.slice(0, 72)}z`, hash)).toBe(true);
    expect(await verdict(LONG.slice(0, 71), hash)).toBe(false);
    expect(await verdict(`${LONG.slice(0, 71)}z${LONG.slice(72)}`, hash)).toBe(false);
  });

  test("a bcrypt hash is verified with bytes, also when the 72nd byte is within a character", async () => {
    expect(await verdict(SPLIT, HASH_OF_SPLIT)).toBe(true);
    expect(await verdict(Buffer.from(SPLIT).subarray(0, 72), HASH_OF_SPLIT)).toBe(true);
    expect(await verdict(SPLIT.replace("é", "è"), HASH_OF_SPLIT)).toBe(true); // Both begin with the same byte.
    expect(await verdict(SPLIT.replace("é", "ez"), HASH_OF_SPLIT)).toBe(false);
  });

  test("a bcrypt hash that Bun made of a long password is verified with the whole password", async () => {
    const hash = await Bun.password.hash(LONG, { algorithm: "bcrypt", cost: 4 });
    expect(await verdict(LONG, hash)).toBe(true);
    expect(await verdict(LONG.slice(0, 72), hash)).toBe(false);
  });

  test("a password with a NUL does not match a bcrypt hash of its repetition", async () => {
    expect(await verdict("secret", HASH_OF_SECRET)).toBe(true);
    expect(await verdict("secret\0secret", HASH_OF_SECRET)).toBe(false);
  });
});

describe("with the token of an earlier session", () => {
  const known = (before: Account, password = RIGHT): Passwords =>
    passwords(new Map([[`alice ${TOKEN}`, passwords().prove(before, password, TOKEN)]]));

  test("the token of an earlier session lets the same password be verified at once", () => {
    const alice = account(hash);
    expect(known(alice).verify(alice, RIGHT, TOKEN, STAYS)).toBe(true);
  });

  test.each([
    ["another password", (alice: Account) => known(alice).verify(alice, WRONG, TOKEN, STAYS), false],
    ["another token", (alice: Account) => known(alice).verify(alice, RIGHT, "u".repeat(22), STAYS), true],
    ["no token", (alice: Account) => known(alice).verify(alice, RIGHT, null, STAYS), true],
    ["a hash of before", (alice: Account) => known(account(`${hash}x`)).verify(alice, RIGHT, TOKEN, STAYS), true],
    [
      "a session of a plain password",
      (alice: Account) => known(account("secret")).verify(alice, RIGHT, TOKEN, STAYS),
      true,
    ],
  ])("%s is compared with the hash", async (_what, judge, verdict) => {
    const judged = judge(account(hash));
    expect(judged).toBeInstanceOf(Promise);
    expect(await judged).toBe(verdict);
  });
});
