import { afterAll, describe, expect, spyOn, test } from "bun:test";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  CredentialsError,
  parseCredentials,
  plainUsers,
  readAgain,
  readCredentials,
} from "../../src/auth/credentials.ts";

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

test("each line is a user and a password; blank lines and comments are skipped", () => {
  expect(parseCredentials("# users\n\nalice one\n   \n#bob two\ncarol #three\n1.2.3 f$ur\n", "f")).toEqual({
    users: [
      { name: "alice", password: "one" },
      { name: "carol", password: "#three" },
      { name: "1.2.3", password: "f$ur" },
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

test.each([
  ["a no-break space", "x\u00a0"],
  ["an ideographic space", "x\u3000"],
  ["a zero width no-break space", "x\ufeff"],
  ["an em space", "x\u2003"],
  ["a next line character", "x\u0085"],
  ["a form feed", "x\f"],
  ["a line separator inside", "x\u2028y"],
  ["a tab and a CR inside", "x\ty\rz"],
  ["nothing but a no-break space", "\u00a0"],
])("a password with %s keeps it, at every kind of line end", (_what, password) => {
  for (const end of ["", "\n", "\r\n", " \t\n", " \r\r\n"]) {
    expect(parseCredentials(`alice ${password}${end}`, "f").users).toEqual([{ name: "alice", password }]);
  }
});

test("a very long line of spaces is trimmed in linear time", () => {
  const spaces = " ".repeat(1 << 20);
  expect(complaint(() => parseCredentials(`alice one\nbob${spaces}x\n`, "f"))).toStartWith("f:2: ");
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
    "bob gr\ufffd\ufffde",
    "bob x\0",
    "\u00a0",
    `bob ${"x".repeat(1025)}`,
  ])("%p", (line) => {
    expect(complaint(() => parseCredentials(`# users\nalice one\n${line}\ncarol x\n`, "users.txt"))).toStartWith(
      "users.txt:3: ",
    );
  });

  test("a repeated name is refused with the numbers of both lines", () => {
    const words = complaint(() => parseCredentials("alice one\nbob two\n\nalice three\n", "users.txt"));
    expect(words).toStartWith("users.txt:4: ");
    expect(words).toContain("alice");
    expect(words).toContain("line 1");
  });

  test("names that differ in case are different users", () => {
    expect(parseCredentials("alice one\nAlice two\n", "f").users).toHaveLength(2);
  });

  test("the error shows neither the password, nor a word in place of the name, nor control bytes", () => {
    const words = complaint(() => parseCredentials("b\x1b[31mb topsecret\n", "f"));
    expect(words).not.toContain("topsecret");
    expect(words).not.toContain("\x1b");
    expect(complaint(() => parseCredentials("bob topsecret again\n", "f"))).not.toContain("topsecret");
    expect(complaint(() => parseCredentials("bob x\ntop,secret again\n", "f"))).not.toContain("secret");
  });
});

/** Made by the reference implementations, from "password" and "secret". */
const ARGON2 = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
const BCRYPT = "$2b$04$Oj0AIXo6Og6b/z9S/lV3GuC1ijec.GHDT.nL1aQjsQBsl6zNuJdPW";

describe("a password that begins with $ is a hash", () => {
  const TAKEN = [
    ["password", ARGON2],
    ["password", "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"],
    ["password", "$argon2i$v=19$m=256,t=2,p=2$AAECAwQFBgcICQoLDA0ODw$D5kUfVYVu5QViiehVH9SMFM1un9qAFmFGTmLrbEY8ok"],
    ["password", "$argon2d$v=19$m=256,t=2,p=2$AAECAwQFBgcICQoLDA0ODw$/bWDs7vn4Q8AhC6bw0GSqnhq48YcJWqdiDw7WaExEKE"],
    ["password", "$argon2id$v=19$m=1024,t=2,p=8$AAECAwQFBgcICQoLDA0ODw$y0zUgtgoT24wlXtpeQJMRQ"],
    ["secret", BCRYPT],
    ["secret", BCRYPT.replace("2b", "2a")],
    ["secret", BCRYPT.replace("2b", "2y")],
    ["a", "$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe"],
  ] as const;

  test.each(TAKEN)("a hash in the file verifies %p: %s", async (password, hash) => {
    const [user] = parseCredentials(`alice ${hash}\n`, "f").users;
    expect(await Bun.password.verify(password, user!.password)).toBe(true);
    expect(await Bun.password.verify(`${password}1`, user!.password)).toBe(false);
  });

  test("a malformed hash makes its line invalid", () => {
    for (const hash of [
      "$",
      "$four",
      "$argon2id",
      "$1$salt$AAAAAAAAAAAAAAAAAAAAAA",
      ARGON2.slice(0, -1), // Cut off, where characters are missing, and where only bits are.
      ARGON2.slice(0, -23),
      `${ARGON2.slice(0, -1)}5`,
      `${ARGON2}AA`,
      `${ARGON2}=`,
      ARGON2.replace("$v=19", ""),
      ARGON2.replace("v=19", "v=16"),
      ARGON2.replace("argon2id", "argon2x"),
      ARGON2.replace("m=256", "m=0256"),
      ARGON2.replace("m=256,t=2", "t=2,m=256"),
      ARGON2.replace("m=256", "m=7"),
      ARGON2.replace("t=2", "t=0"),
      ARGON2.replace("p=1", "p=0"),
      ARGON2.replace("m=256,t=2,p=1", "m=65536,t=2,p=65"),
      ARGON2.replace("p=1", "p=1,keyid=AA"),
      ARGON2.replace("c29tZXNhbHQ", "c29tZXNhbA"),
      BCRYPT.slice(0, -1),
      `${BCRYPT}a`,
      `${BCRYPT.slice(0, -1)}X`,
      BCRYPT.replace("2b", "2x"),
      BCRYPT.replace("$04$", "$03$"),
      BCRYPT.replace("$04$", "$4$"),
      BCRYPT.replace("Gu", "Gv"),
    ]) {
      const words = complaint(() => parseCredentials(`alice one\nbob ${hash}\n`, "users.txt"));
      expect(words).toMatch(/^users\.txt:2: .*none that can be verified/);
    }
  });

  test("a hash that costs too much makes its line invalid", () => {
    for (const hash of [
      ARGON2.replace("m=256", "m=1048577"),
      ARGON2.replace("m=256", `m=1${"0".repeat(400)}`),
      ARGON2.replace("m=256,t=2", "m=1048576,t=5"),
      ARGON2.replace("t=2", "t=16385"),
      BCRYPT.replace("$04$", "$17$"),
    ]) {
      const words = complaint(() => parseCredentials(`alice one\nbob ${hash}\n`, "users.txt"));
      expect(words).toMatch(/^users\.txt:2: .*too much/);
    }
    const most = [ARGON2.replace("m=256,t=2", "m=1048576,t=4"), BCRYPT.replace("$04$", "$16$")];
    for (const hash of most) expect(parseCredentials(`bob ${hash}\n`, "f").users).toHaveLength(1);
  });

  test("passwords that do not begin with $ are plain", () => {
    const { users } = parseCredentials(`alice one\nbob ${BCRYPT}\ncarol t$o\n`, "f");
    expect(plainUsers(users).map(({ name }) => name)).toEqual(["alice", "carol"]);
  });
});

test("a file without users is refused", () => {
  for (const text of ["", "\n\n", "# nobody\n"]) {
    expect(complaint(() => parseCredentials(text, "users.txt"))).toStartWith("users.txt: ");
  }
});

test("a missing file, or a folder, is refused with its name", () => {
  expect(complaint(() => readCredentials(join(folder, "none.txt")))).toContain("none.txt");
  expect(complaint(() => readCredentials(folder))).toContain(folder);
});

describe("while the server runs, a credentials file is refused that is", () => {
  const refusal = (file: string): Promise<string> =>
    readAgain(file, null).then(
      () => complaint(() => null),
      (error: unknown) =>
        complaint(() => {
          throw error;
        }),
    );

  test("while the server runs, a named pipe is refused at once", async () => {
    const pipe = join(folder, "pipe");
    expect(Bun.spawnSync(["mkfifo", pipe]).exitCode).toBe(0);
    expect(await refusal(pipe)).toContain("not a regular file; a pipe can only be read when the server starts");
  });

  test("while the server runs, a device or a folder is refused", async () => {
    expect(await refusal("/dev/zero")).toContain("not a regular file");
    expect(await refusal(folder)).toEndWith(`${folder}: it is a folder`);
  });

  test("while the server runs, a file larger than 64 MiB is refused", async () => {
    const file = join(folder, "large.txt");
    writeFileSync(file, "");
    truncateSync(file, 1 << 30);
    expect(await refusal(file)).toContain("it has more than 67108864 bytes");
  });
});

test("at the start a pipe is accepted, and a device without an end is refused", async () => {
  const pipe = join(folder, "input");
  expect(Bun.spawnSync(["mkfifo", pipe]).exitCode).toBe(0);
  const writer = Bun.spawn(["sh", "-c", 'printf "alice one\n" > "$0"', pipe]);
  expect(readCredentials(pipe).users).toEqual([{ name: "alice", password: "one" }]);
  await writer.exited;
  expect(complaint(() => readCredentials("/dev/zero"))).toContain("it has more than");
});

test("a file is read from disk", () => {
  const file = join(folder, "users.txt");
  writeFileSync(file, "alice one\n");
  expect(readCredentials(file).users).toEqual([{ name: "alice", password: "one" }]);
});

test("a file that has not changed gives the same users, and is not parsed again", async () => {
  const file = join(folder, "known.txt");
  writeFileSync(file, "alice one\n");
  const known = readCredentials(file);
  expect(await readAgain(file, known)).toBe(known);
  writeFileSync(file, "alice two\n");
  expect((await readAgain(file, known)).users).toEqual([{ name: "alice", password: "two" }]);
});

test("the event loop runs between slices while a file is read again", async () => {
  const file = join(folder, "slices.txt");
  writeFileSync(file, "alice one\nbob two\ncarol three\n");
  let nowMs = 0;
  const clock = spyOn(performance, "now").mockImplementation(() => (nowMs += 1000)); // Each step takes a second.
  let slices = 0;
  const counting = new Promise<void>((resolve) => {
    const count = (): void => void (++slices === 3 ? resolve() : setImmediate(count));
    setImmediate(count);
  });
  try {
    const first = await Promise.race([counting, readAgain(file, null)]);
    expect(first).toBeUndefined();
  } finally {
    clock.mockRestore();
  }
});

test("the shipped sample file is valid, and is recognised until its mark is deleted", async () => {
  const file = join(import.meta.dir, "../../credentials.txt");
  const shipped = readCredentials(file);
  expect(shipped.sample).toBe(true);
  expect(shipped.users.find(({ name }) => name === "columbia")?.password).toBe("116bway");
  const text = await Bun.file(file).text();
  expect(parseCredentials(text.slice(text.indexOf("\n") + 1), file).sample).toBe(false);
});
