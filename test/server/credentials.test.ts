import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CredentialsError, parseCredentials, readCredentials } from "../../src/server/credentials.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
afterAll(() => rmSync(folder, { recursive: true }));

function complaint(parse: () => unknown): string {
  try {
    parse();
  } catch (error) {
    if (error instanceof CredentialsError) return error.message;
    throw error;
  }
  throw new Error("it is taken");
}

test("a line is a user and a password; blank lines and comments do not count", () => {
  expect(parseCredentials("# users\n\nalice one\n   \n#bob two\ncarol #three\n1.2.3 $four\n", "f")).toEqual({
    users: [
      { name: "alice", password: "one" },
      { name: "carol", password: "#three" },
      { name: "1.2.3", password: "$four" },
    ],
    sample: false,
  });
});

test.each([
  ["CRLF", "alice one\r\nbob two\r\n"],
  ["a byte order mark", "\ufeffalice one\nbob two\n"],
  ["no end of the last line", "alice one\nbob two"],
  ["spaces at the end of lines", "alice one  \nbob two\t\n"],
])("a file with %s is the same file", (_what, text) => {
  expect(parseCredentials(text, "f").users.map(({ name, password }) => `${name} ${password}`)).toEqual([
    "alice one",
    "bob two",
  ]);
});

describe("a bad line makes the whole file bad, and is named", () => {
  test.each([
    "bob",
    "bob ",
    "bob one two",
    "bob  one",
    " bob one",
    "bob\tone",
    "192.0.2.1 one",
    "b..b one",
    ".bob one",
    "-bob one",
    "b/b one",
    "böb one",
    `${"b".repeat(33)} one`,
  ])("%p", (line) => {
    expect(complaint(() => parseCredentials(`# users\nalice one\n${line}\ncarol x\n`, "users.txt"))).toStartWith(
      "users.txt:3: ",
    );
  });

  test("as is a name that comes twice, with both lines", () => {
    const words = complaint(() => parseCredentials("alice one\nbob two\n\nalice three\n", "users.txt"));
    expect(words).toStartWith("users.txt:4: ");
    expect(words).toContain("alice");
    expect(words).toContain("line 1");
  });

  test("but case counts: names that differ in it are two", () => {
    expect(parseCredentials("alice one\nAlice two\n", "f").users).toHaveLength(2);
  });

  test("without showing the password, or bytes that harm a terminal", () => {
    const words = complaint(() => parseCredentials("b\x1b[31mb topsecret\n", "f"));
    expect(words).not.toContain("topsecret");
    expect(words).not.toContain("\x1b");
    expect(complaint(() => parseCredentials("bob topsecret again\n", "f"))).not.toContain("topsecret");
  });
});

test("a file without users is refused", () => {
  for (const text of ["", "\n\n", "# nobody\n"]) {
    expect(complaint(() => parseCredentials(text, "users.txt"))).toStartWith("users.txt: ");
  }
});

test("a file that is missing or a folder is refused by its name", () => {
  expect(complaint(() => readCredentials(join(folder, "none.txt")))).toContain("none.txt");
  expect(complaint(() => readCredentials(folder))).toContain(folder);
});

test("a file is read from disk", () => {
  const file = join(folder, "users.txt");
  writeFileSync(file, "alice one\n");
  expect(readCredentials(file).users).toEqual([{ name: "alice", password: "one" }]);
});

test("the file that is shipped can be used, and is known as a sample until its mark is deleted", async () => {
  const file = join(import.meta.dir, "../../credentials.txt");
  const shipped = readCredentials(file);
  expect(shipped.sample).toBe(true);
  expect(shipped.users.find(({ name }) => name === "columbia")?.password).toBe("116bway");
  const text = await Bun.file(file).text();
  expect(parseCredentials(text.slice(text.indexOf("\n") + 1), file).sample).toBe(false);
});
