import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readCredentials } from "../../src/auth/credentials.ts";
import { run, runWith } from "../support/process.ts";
import { Pty } from "../support/pty.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const ptys: Pty[] = [];
let files = 0;

afterEach(() => ptys.splice(0).forEach((pty) => pty.end()));
afterAll(() => rmSync(folder, { recursive: true }));

/** The path of a new file; without text the file does not exist. */
function newFile(text?: string): string {
  const file = join(folder, `users${files++}.txt`);
  if (text !== undefined) writeFileSync(file, text);
  return file;
}

function passwd(...args: string[]): ReturnType<typeof run> {
  return run("src/main.ts", "passwd", ...args);
}

/** Sets a password from standard input, as a script does. */
function setPassword(input: string | Uint8Array, ...args: string[]): ReturnType<typeof run> {
  return runWith({ input }, "src/main.ts", "passwd", ...args);
}

function onTerminal(args: string[], env: Record<string, string> = {}): Pty {
  const pty = new Pty(["src/main.ts", "passwd", ...args], { columns: 100, env });
  ptys.push(pty);
  return pty;
}

/** An environment in which the program runs this script first. */
function preload(script: string): Record<string, string> {
  const file = join(folder, `preload${files++}.ts`);
  writeFileSync(file, script);
  return { BUN_OPTIONS: `--preload ${file}` };
}

function hashOf(file: string, user: string): string {
  return readCredentials(file).users.find(({ name }) => name === user)!.password;
}

test("passwd adds a user to a new file with mode 0600, and later changes the password", async () => {
  const file = newFile();
  expect(await setPassword("two words\n", file, "alice")).toMatchObject({ out: "", code: 1 });
  expect(existsSync(file)).toBe(false);
  const first = await setPassword("größe1\nnot this\n", file, "alice");
  expect(first).toEqual({
    out: `added alice to ${file}; a running server reads the change after kill -HUP <pid>\n`,
    err: "",
    code: 0,
  });
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(hashOf(file, "alice")).toStartWith("$argon2id$v=19$m=65536,t=2,p=1$");
  expect(await Bun.password.verify("größe1", hashOf(file, "alice"))).toBe(true);
  const second = await setPassword("$ecret2\r\n", file, "alice");
  expect(second).toMatchObject({ out: expect.stringContaining(`changed the password of alice in ${file}`), code: 0 });
  expect(await Bun.password.verify("$ecret2", hashOf(file, "alice"))).toBe(true);
  expect(readCredentials(file).users).toHaveLength(1);
});

describe("nothing is changed, and one line has the reason, when", () => {
  const USERS = "# users\nalice one\n";

  async function refuses(text: string, input: string | Uint8Array, user: string, ...words: string[]): Promise<void> {
    const file = newFile(text);
    const { out, err, code } = await setPassword(input, file, user);
    expect({ out, code }).toEqual({ out: "", code: 1 });
    expect(err).toMatch(/^heartline: [^\n]+\n$/);
    for (const word of words) expect(err.replace(file, "file")).toContain(word);
    expect(err).not.toMatch(/topsecret|\.ts\b/);
    expect(readFileSync(file, "utf8")).toBe(text);
    expect(existsSync(`${file}.new`)).toBe(false);
  }

  test("the password is invalid", async () => {
    await Promise.all([
      refuses(USERS, "", "alice", "no password"),
      refuses(USERS, "\n", "alice", "empty"),
      refuses(USERS, "topsecret 1\n", "alice", "spaces"),
      refuses(USERS, "topsecret\t1\n", "alice", "control characters"),
      refuses(USERS, "topsecret\x1b1\n", "alice", "control characters"),
      refuses(USERS, Buffer.from("topsecret\xff\n", "latin1"), "alice", "UTF-8"),
      refuses(USERS, `topsecret${"ö".repeat(508)}\n`, "alice", "1024 bytes"),
      refuses(USERS, `topsecret${"ö".repeat(600_000)}\n`, "alice", "1024 bytes"),
    ]);
  });

  test.each([
    ["CR", "\r"],
    ["two CRs before the LF", "\r\r\n"],
    ["VT", "\x0b"],
    ["FF", "\x0c"],
    ["NEL", "\u0085"],
    ["NUL", "\0"],
    ["U+FFFD", "\ufffd"],
  ])("the password has the control character %s", (_, separator) =>
    refuses(USERS, `topsecret${separator}rest\n`.replace(/\nrest/, ""), "alice", "control characters"),
  );

  test("the user name or a line of the file is invalid", async () => {
    await Promise.all([
      refuses(USERS, "topsecret\n", "b..b", "b..b"),
      refuses("b..b topsecret\n", "topsecret\n", "a b", "a b"),
      refuses(`${USERS}bob\n`, "", "alice", "file:3: "),
      refuses(`${USERS}bob $topsecret\n`, "topsecret\n", "carol", "file:3: "),
    ]);
  });

  test("the file is a folder, or its folder does not exist", async () => {
    for (const file of [folder, join(folder, "none", "users.txt")]) {
      const { err, code } = await setPassword("topsecret\n", file, "alice");
      expect(code).toBe(1);
      expect(err).toMatch(/^heartline: cannot [^\n]+\n$/);
      expect(err).toContain(file);
    }
    const { err, code } = await passwd("--migrate", newFile());
    expect(code).toBe(1);
    expect(err).toContain("no such file");
  });
});

test("a password may end with the input, without LF", async () => {
  const file = newFile();
  expect(await setPassword("größe1", file, "alice")).toMatchObject({ err: "", code: 0 });
  expect(await Bun.password.verify("größe1", hashOf(file, "alice"))).toBe(true);
});

test.each([
  ["a no-break space at its end", "x\u00a0"],
  ["an ideographic space at its end", "x\u3000"],
  ["a line separator inside", "x\u2028y"],
])("a password with %s is set unchanged", async (_what, password) => {
  const file = newFile();
  expect(await setPassword(`${password}\n`, file, "alice")).toMatchObject({ err: "", code: 0 });
  expect(await Bun.password.verify(password, hashOf(file, "alice"))).toBe(true);
});

test("several passwd programs at the same time keep each change", async () => {
  const file = newFile("zoe one\n");
  const names = ["alice", "bob", "carol"];
  const all = await Promise.all(names.map((name) => setPassword(`of-${name}\n`, file, name)));
  expect(all.map(({ code, err }) => ({ code, err }))).toEqual(names.map(() => ({ code: 0, err: "" })));
  expect(
    readCredentials(file)
      .users.map(({ name }) => name)
      .sort(),
  ).toEqual([...names, "zoe"]);
});

test("a change whose result cannot be printed is reported on standard error, and exits with 0", async () => {
  const file = newFile();
  const result = await runWith({ input: "secret1\n", onFullDisk: true }, "src/main.ts", "passwd", file, "alice");
  const err = expect.stringMatching(/^heartline: cannot write: ENOSPC[^\n]*; added alice to [^\n]+\n$/);
  expect(result).toEqual({ out: "", err, code: 0 });
  expect(await Bun.password.verify("secret1", hashOf(file, "alice"))).toBe(true);
});

test("--help that cannot be printed exits with 1 and one line", async () => {
  const result = await runWith({ onFullDisk: true }, "src/main.ts", "passwd", "--help");
  expect(result).toEqual({ out: "", err: expect.stringMatching(/^heartline: cannot write: ENOSPC[^\n]*\n$/), code: 1 });
});

test("--delete removes the line of a user, and nothing else changes", async () => {
  const file = newFile("# staff\nalice one\r\nbob two\ncarol three");
  const done = await passwd("--delete", file, "alice");
  expect(done).toMatchObject({ err: "", code: 0 });
  expect(done.out).toMatch(/^removed alice from \S+; a running server reads the change after kill -HUP <pid>\n$/);
  expect(readFileSync(file, "utf8")).toBe("# staff\nbob two\ncarol three");
  expect(await passwd("--delete", file, "carol")).toMatchObject({ code: 0 }); // The last line has no end.
  expect(readFileSync(file, "utf8")).toBe("# staff\nbob two");
});

test("--delete of the last user, or of a user that the file does not have, fails and changes nothing", async () => {
  const file = newFile("alice one\n");
  const err = `heartline: ${file} has no user bob\n`;
  expect(await passwd("--delete", file, "bob")).toEqual({ out: "", err, code: 1 });
  const last = `heartline: alice is the only user in ${file}, and a server needs one\n`;
  expect(await passwd("--delete", file, "alice")).toEqual({ out: "", err: last, code: 1 });
  const missing = await passwd("--delete", `${file}.missing`, "bob");
  expect(missing).toMatchObject({ err: expect.stringMatching(/there is no such file\n$/), code: 1 });
  expect(readFileSync(file, "utf8")).toBe("alice one\n");
});

test("a file in a folder that does not exist is reported in words, with what to do", async () => {
  const file = join(newFile(""), "..", "nowhere", "users.txt");
  const err = `heartline: cannot change ${file}: its folder does not exist; create that first\n`;
  expect(await setPassword("secret\n", file, "alice")).toEqual({ out: "", err, code: 1 });
});

test("--help prints the usage, and an invalid command line exits with 2", async () => {
  const help = await passwd("--help");
  expect(help).toMatchObject({ err: "", code: 0 });
  expect(help.out).toContain("--migrate");
  for (const args of [
    [],
    ["a", "b", "c"],
    ["--migrate", "a", "b"],
    ["--nonsense", "alice"],
    ["--delete"],
    ["--delete", "--migrate", "a"],
  ]) {
    const { out, err, code } = await passwd(...args);
    expect({ out, code }).toEqual({ out: "", code: 2 });
    expect(err).toMatch(/^heartline: [^\n]+help passwd [^\n]+\n$/);
  }
});

describe("on a terminal", () => {
  test("the password is asked for until both entries are valid and equal, and is never shown", async () => {
    const file = newFile("alice one\n");
    const pty = onTerminal([file, "alice"]);
    const typeAt = async (prompt: string, keys: string): Promise<void> => {
      await pty.until((lines) => lines.at(-1) === prompt);
      pty.type(keys);
    };
    const [NEW, AGAIN] = ["New password for alice:", "Again:"];
    await typeAt(NEW, "\r");
    await pty.sees("cannot be empty");
    await typeAt(NEW, "top secret\r");
    await pty.sees("no spaces");
    await typeAt(NEW, "topsecret1\r");
    await typeAt(AGAIN, "topsecret2\r");
    await pty.sees("two different passwords");
    await typeAt(NEW, "topsecretx\x7f3\r");
    await typeAt(AGAIN, "topsecret3\r");
    const lines = await pty.sees("changed the password of alice");
    expect(await pty.exited).toBe(0);
    expect(lines.join("\n")).not.toContain("top");
    expect(await Bun.password.verify("topsecret3", hashOf(file, "alice"))).toBe(true);
  });

  test("Ctrl+Z stops passwd and its parent, and fg asks again without showing the password", async () => {
    const file = newFile("alice one\n");
    const pty = new Pty(["-i"], { columns: 100, program: "/bin/sh", env: { PS1: "$ " } });
    ptys.push(pty);
    pty.type(`'${process.execPath}' run passwd ${file} alice\r`);
    for (const prompt of ["New password for alice:", "Again:"]) {
      await pty.until((lines) => lines.at(-1) === prompt);
      pty.type("\x1a");
      await pty.until((lines) => lines.at(-1) === "$");
      pty.type("fg\r");
      await pty.until((lines) => lines.at(-1) === prompt);
      pty.type("topsecret\r");
    }
    const lines = await pty.sees("changed the password of alice");
    expect(lines.join("\n")).not.toContain("topsecret");
  });

  test.each(["SIGHUP", "SIGQUIT", "SIGTERM", "SIGINT"] as const)(
    "%s while a password is typed restores the terminal and changes nothing",
    async (signal) => {
      const file = newFile("alice one\n");
      const pty = new Pty(["-i"], { columns: 100, rows: 40, program: "/bin/sh", env: { PS1: "$ " } });
      ptys.push(pty);
      await pty.until((lines) => lines.at(-1) === "$");
      pty.type(`sh -c 'echo pid=$$; exec ${process.execPath} src/main.ts passwd ${file} alice'\r`);
      const lines = await pty.sees("New password for alice:");
      const [, pid = ""] = /^pid=(\d+)$/m.exec(lines.join("\n"))!;
      process.kill(Number(pid), signal);
      await pty.sees("nothing was changed");
      await pty.until((lines) => lines.at(-1) === "$");
      pty.type("stty -a; echo done\r");
      const modes = (await pty.until((lines) => lines.includes("done"))).join("\n");
      expect(modes).toMatch(/ icanon .* echo /s);
      expect(modes).not.toMatch(/ -(icanon|echo) /);
      expect(readFileSync(file, "utf8")).toBe("alice one\n");
    },
  );

  test.each([
    ["Ctrl+C", "half\x03"],
    ["Ctrl+D", "\x04"],
  ])("%s exits with 1 and changes nothing", async (_key, keys) => {
    const file = newFile("alice one\n");
    const pty = onTerminal([file, "alice"]);
    await pty.sees("New password");
    pty.type("topsecret\r");
    await pty.sees("Again:");
    pty.type(keys);
    await pty.sees("nothing was changed");
    expect(await pty.exited).toBe(1);
    expect(readFileSync(file, "utf8")).toBe("alice one\n");
  });
});

describe("--migrate", () => {
  test("hashes all plain passwords and keeps every other byte", async () => {
    const hash = await Bun.password.hash("two", { algorithm: "bcrypt", cost: 4 });
    const file = newFile(`# users\r\nalice one\r\n\r\nbob ${hash}\r\ncarol größe \r\n`);
    const first = await passwd("--migrate", file);
    expect(first).toMatchObject({
      out: expect.stringContaining(`hashed 2 passwords in ${file}; a running server`),
      code: 0,
    });
    const text = readFileSync(file, "utf8");
    const [alice, bob, carol] = readCredentials(file).users.map(({ password }) => password);
    expect(text).toBe(`# users\r\nalice ${alice}\r\n\r\nbob ${hash}\r\ncarol ${carol}\r\n`);
    expect(bob).toBe(hash);
    expect(await Bun.password.verify("one", alice!)).toBe(true);
    expect(await Bun.password.verify("größe", carol!)).toBe(true);
    const { ino } = statSync(file);
    expect(await passwd("--migrate", file)).toEqual({ out: `hashed 0 passwords in ${file}\n`, err: "", code: 0 });
    expect(statSync(file).ino).toBe(ino);
  });

  test("keeps changes that another program makes meanwhile", async () => {
    const file = newFile("alice one\nbob two\n");
    const env = preload(`
      import { writeFileSync } from "node:fs";
      const { hash } = Bun.password;
      Bun.password.hash = (password) => {
        writeFileSync(${JSON.stringify(file)}, "# new\\nbob three\\nalice one\\ncarol four\\n");
        return hash(password, { algorithm: "bcrypt", cost: 4 });
      };`);
    const pty = onTerminal(["--migrate", file], env);
    await pty.sees("hashed 1 password in");
    expect(readFileSync(file, "utf8")).toMatch(/^# new\nbob three\nalice \$2b\$\S+\ncarol four\n$/);
  });

  test("shows its progress, and Ctrl+C changes nothing", async () => {
    const file = newFile("alice one\nbob two\ncarol three\n");
    const env = preload(`
      const { hash } = Bun.password;
      Bun.password.hash = (password) => (password === "two" ? new Promise(() => {}) : hash(password, "bcrypt"));`);
    const pty = onTerminal(["--migrate", file], env);
    await pty.sees("hashed 2 of 3 passwords");
    pty.type("\x03");
    expect(await pty.exited).toBe(1);
    await pty.sees("nothing was changed");
    expect(readFileSync(file, "utf8")).toBe("alice one\nbob two\ncarol three\n");
  });
});
