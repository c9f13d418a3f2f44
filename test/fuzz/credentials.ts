import fc from "fast-check";
import { type Credentials, CredentialsError, parseCredentials } from "../../src/auth/credentials.ts";
import { expectAlike, expectThat, target } from "./target.ts";

const FILE = "users.txt";
const HASH = "$2b$04$Oj0AIXo6Og6b/z9S/lV3GuC1ijec.GHDT.nL1aQjsQBsl6zNuJdPW";

const line = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.tuple(fc.constantFrom("alice", "bob", "c.d"), fc.nat({ max: 9 })).map(([a, b]) => `${a} ${b}`),
  },
  fc.constantFrom("", " ", "# words", "#", "\t", "alice", "alice ", "alice  x", "alice x y", " alice x", "a..b x"),
  fc.constantFrom(
    "1.2.3.4 x",
    "\ufeffalice x",
    "\u001b[2J x",
    "alice \u001b[2J",
    "alice\tx",
    "alice x\t",
    "größe x",
    "bob größe",
    `bob ${HASH}`,
    `bob ${HASH}x`,
    "bob \ufffd",
    "bob x\u00a0",
    "alice x\u3000 ",
    "c.d \u00a0",
    "alice x\u0085",
    "bob a\u2028b",
    "bob x\ufeff",
    "alice x\f",
    "\u00a0",
    "\ufeff",
    "bob x\0",
  ),
  fc.string({ unit: "binary", maxLength: 12 }),
);

const text = fc
  .array(fc.tuple(line, fc.constantFrom("\n", "\n", "\r\n", "\r")), { maxLength: 8 })
  .map((lines) => lines.flat().join(""));

/** The expected users of a valid file; the number of the first invalid line; null for a file without users. */
function parseByPatterns(text: string): Credentials["users"] | number | null {
  const users = new Map<string, string>();
  for (const [index, line] of text
    .replace(/^\ufeff/, "")
    .replaceAll("\r\n", "\n")
    .split("\n")
    .entries()) {
    if (/^[ \t\r]*$/.test(line) || line.startsWith("#")) continue;
    const parts = /^([A-Za-z0-9][A-Za-z0-9._-]{0,31}) ([^ ]*[^ \t\r])[ \t\r]*$/.exec(line);
    const name = parts?.[1] ?? "";
    const isAddress = /^(\d{1,3}\.){3}\d{1,3}$/.test(name) && name.split(".").every((part) => Number(part) < 256);
    if (parts === null || name.includes("..") || isAddress || users.has(name)) return index + 1;
    const password = parts[2]!;
    if (Buffer.byteLength(password) > 1024) return index + 1;
    if ((password.startsWith("$") && password !== HASH) || /[\ufffd\0]/.test(password)) return index + 1;
    users.set(name, password);
  }
  return users.size === 0 ? null : [...users].map(([name, password]) => ({ name, password }));
}

export const credentials = target(
  {
    name: "credentials",
    holds: "a credentials file gives its users, or an error of one printable line with the line number",
  },
  text,
  (text) => {
    const expected = parseByPatterns(text);
    let users: Credentials["users"];
    try {
      ({ users } = parseCredentials(text, FILE));
    } catch (error) {
      const { message } = error as Error;
      expectThat(
        error instanceof CredentialsError && /^[\x20-\x7e]+$/.test(message),
        () => `the error is ${String(error)}`,
      );
      const number = /^users\.txt:(\d+): /.exec(message)?.[1];
      return expectAlike(number === undefined ? null : Number(number), expected, "the number of the invalid line");
    }
    expectAlike(users, expected, "the users");
  },
);
