import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChatClient } from "heartline/client";
import { FakeServer } from "../support/fake-server.ts";
import { Pty } from "../support/pty.ts";
import { Proxy } from "./chaos/fault-proxy.ts";
import { PASSWORD, WireServer } from "../support/wire.ts";

const USERS = ["columbia", "SEAS", "seashell", "foobar"];
const SIZES = [
  [80, 24],
  [40, 10],
  [200, 60],
] as const;

let folder: string;
let server: WireServer;
let seas: ChatClient;
/** What SEAS has received, as `<kind> <text>`. */
const received: string[] = [];
let hasReceived = (): void => {};
const ptys: Pty[] = [];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "heartline-"));
  server = new WireServer({}, USERS);
  received.length = 0;
  seas = new ChatClient({
    host: "127.0.0.1",
    port: server.port,
    listenPort: 0,
    onEvent: (event) => {
      if ("text" in event) received.push(`${event.kind} ${event.text}`);
      hasReceived();
    },
  });
  await seas.login("SEAS", PASSWORD);
});

afterEach(async () => {
  seas.close();
  for (const pty of ptys.splice(0)) pty.end();
  await server.stop();
  rmSync(folder, { recursive: true });
});

/** Resolves when SEAS has received exactly these, in this order. */
async function seasReceives(...expected: string[]): Promise<void> {
  while (received.length < expected.length) await new Promise<void>((resolve) => (hasReceived = resolve));
  expect(received).toEqual(expected);
}

interface Choices {
  columns?: number;
  rows?: number;
  env?: Record<string, string>;
  args?: string[];
  port?: number;
  /** Null: the client asks. */
  password?: string | null;
}

function open(choices: Choices = {}): Pty {
  const { columns = 80, rows = 24, env = {}, args = [], port = server.port, password = PASSWORD } = choices;
  const pty = new Pty(["src/main.ts", "chat", `columbia@127.0.0.1:${port}`, ...args], {
    columns,
    rows,
    env: {
      XDG_STATE_HOME: folder,
      XDG_CONFIG_HOME: folder,
      ...(password !== null && { HEARTLINE_PASSWORD: password }),
      ...env,
    },
  });
  ptys.push(pty);
  return pty;
}

/** Resolves when the last row of the screen is this one. */
async function prompts(pty: Pty, prompt: string): Promise<string[]> {
  return pty.until((lines) => lines.at(-1) === prompt);
}

/** A client that is logged in and has shown who is here, with SEAS as its partner. */
async function openTo(choices: Choices = {}, partner = "seas"): Promise<Pty> {
  const pty = open(choices);
  await pty.sees("here: SEAS");
  await prompts(pty, ">");
  pty.type(`/to ${partner}\r`);
  await prompts(pty, partner === "seas" ? "SEAS>" : `${partner}>`);
  return pty;
}

async function shows(pty: Pty, text: string): Promise<void> {
  await pty.until(() => pty.text.includes(text));
}

describe.each(SIZES)("at %i x %i", (columns, rows) => {
  const size = { columns, rows };

  test("a plain line goes to the partner and is one line with its state; without a partner it is a command", async () => {
    const pty = await openTo(size);
    pty.type("hello there\r");
    await shows(pty, "✓ to SEAS: hello there");
    await prompts(pty, "SEAS>");
    const own = pty.lines.filter((line) => line.includes("hello there"));
    expect(own.pop()).toMatch(/^\d\d:\d\d ✓ to SEAS: hello there$/);
    // On a busy machine the reply takes longer than WAIT_MS; test/terminal/outgoing.test.ts has the times.
    for (const line of own) expect(line).toMatch(/^\d\d:\d\d … to SEAS: hello there$/);
    pty.type("/msg foobar are you back?\r");
    await shows(pty, "✉ to foobar: are you back?");
    pty.type("/to\r");
    await prompts(pty, ">");
    pty.type("hello there\r");
    await shows(pty, "there is no command hello");
    await seasReceives("message hello there");
  });

  test("a habitual command is asked about once, and is said, discarded or given with a slash", async () => {
    const pty = await openTo(size);
    pty.type("broadcast my secret\r");
    await shows(pty, "Enter again says it to SEAS, Esc, or /broadcast");
    await prompts(pty, "SEAS> broadcast my secret");
    pty.type("\x1b");
    await prompts(pty, "SEAS>");
    pty.type("online in a minute\r");
    await shows(pty, '"online" is also a command. Enter again says it to SEAS, Esc, or /online');
    await prompts(pty, "SEAS> online in a minute");
    pty.type("\r");
    await shows(pty, "✓ to SEAS: online in a minute");
    await seasReceives("message online in a minute");
  });

  test("several pasted lines are asked about, sent in order, and none is a command", async () => {
    const pty = await openTo(size);
    pty.type("\x1b[200~one\nlogout\n\n/quit\nlast\n\x1b[201~");
    await shows(pty, "4 lines to SEAS? Enter sends, Esc discards");
    pty.type("\r");
    await prompts(pty, "SEAS>");
    await seasReceives("message one", "message logout", "message /quit", "message last");
    pty.type("\x1b[200~a\rb\x1b[201~");
    await shows(pty, "2 lines to SEAS?");
    pty.type("\x1b");
    await shows(pty, "2 pasted lines were discarded");
    pty.type("end\r");
    await shows(pty, "✓ to SEAS: end");
    await seasReceives("message one", "message logout", "message /quit", "message last", "message end");
  });

  test("lines that arrive at once without the marks of a paste are asked about, too", async () => {
    const pty = await openTo(size);
    pty.type("secret\rlogout\r\tx\r");
    await shows(pty, "3 lines to SEAS? Enter sends, Esc discards");
    pty.type("\x1b");
    await shows(pty, "3 pasted lines were discarded");
    pty.type("/to\r");
    await prompts(pty, ">");
    pty.type("secret\rlogout\rbye\r");
    await shows(pty, "3 pasted lines were dropped: without a partner they would be commands");
    pty.type("message SEAS end\r");
    await seasReceives("message end");
  });

  test("a long text is broken at words, under its beginning", async () => {
    const pty = await openTo(size);
    const text = "the quick brown fox jumps over the lazy dog ".repeat(6).trim();
    await seas.message("columbia", text);
    await pty.sees("lazy dog");
    await prompts(pty, "SEAS>");
    const at = pty.lines.findIndex((line) => line.includes("SEAS: the quick"));
    expect(pty.lines[at]).toMatch(/^\d\d:\d\d SEAS: the quick/);
    const more = pty.lines.slice(at + 1, -1);
    for (const line of more) expect(line).toMatch(/^ {6}\S/);
    const words = [pty.lines[at]!.slice(12), ...more.map((line) => line.slice(6))].join(" ").split(" ");
    expect(words.join(" ")).toBe(text);
  });

  test("Tab steps through the recent partners on an empty line, and completes names and commands", async () => {
    const pty = open(size);
    await pty.sees("here: SEAS");
    pty.type("\t");
    await shows(pty, "there is nobody to talk with yet");
    pty.type("message foobar hi\r");
    await pty.sees("to foobar: hi");
    await seas.message("columbia", "hi");
    await pty.sees("SEAS: hi");
    for (const partner of ["SEAS", "foobar", "SEAS"]) {
      pty.type("\t");
      await prompts(pty, `${partner}>`);
    }
    pty.type("/wh\t");
    await prompts(pty, "SEAS> /who");
    pty.type("\x03/m FOO\t");
    await prompts(pty, "SEAS> /m foobar");
    pty.type("x\r");
    await shows(pty, "✉ to foobar: x");
  });

  test("the help fits the screen", async () => {
    const pty = await openTo(size);
    for (const page of ["", " people", " private", " screen"]) {
      pty.type(`/help${page}\r`);
      await pty.until(
        (lines) => lines.at(-2)?.startsWith("More:") === true || lines.at(-2)?.startsWith("      ") === true,
      );
      await prompts(pty, "SEAS>");
      for (const line of pty.lines) expect(line.length).toBeLessThanOrEqual(columns);
    }
  });

  test("the bell rings for a message while the terminal has not the focus, and marks where one stopped reading", async () => {
    const pty = await openTo(size);
    expect(pty.bells).toBe(0);
    await seas.message("columbia", "one");
    await pty.sees("SEAS: one");
    expect(pty.bells).toBe(1);
    expect(pty.title).toBe("(1) heartline");
    expect(pty.written).toContain("\x1b]9;message from SEAS\x1b\\");
    pty.type("\x1b[I");
    await pty.until(() => pty.title === "heartline");
    await seas.message("columbia", "two");
    await pty.sees("SEAS: two");
    await seas.broadcast("all");
    await pty.sees("SEAS to all: all");
    expect(pty.bells).toBe(1);
    expect(pty.text).not.toContain("unread");
    pty.type("\x1b[Ox");
    await prompts(pty, "SEAS> x");
    pty.type("\x7f");
    await seas.broadcast("not for me");
    await pty.sees("not for me");
    expect(pty.bells).toBe(1);
    await seas.message("columbia", "three");
    await pty.sees("SEAS: three");
    expect(pty.bells).toBe(2);
    const lines = pty.lines;
    const mark = lines.findIndex((line) => line.includes("unread"));
    expect(lines[mark + 1]).toContain("not for me");
    expect(lines.filter((line) => line.includes("unread"))).toHaveLength(1);
    pty.type("/bell off\r");
    await pty.sees("bell: off");
    await seas.message("columbia", "four");
    await pty.sees("SEAS: four");
    expect(pty.bells).toBe(2);
    expect(pty.written.indexOf("\x07")).toBeLessThan(pty.written.indexOf("SEAS\x1b[22m\x1b[39m: one"));
  });
});

/** A server that accepts the login, and sends what `replies` has for other lines, at once. */
function fakeServer(replies: Record<string, string>, afterLogin = ""): FakeServer {
  return new FakeServer((line, connection) => {
    if (line.startsWith("login")) connection.send(`ok ${"t".repeat(22)} 35\n${afterLogin}`);
    else if (line.startsWith("alive")) connection.send("ok 1\n");
    else connection.send(replies[line.split(" ")[0]!] ?? "ok\n");
  });
}

test("an answer that arrives together with the reply to a text is printed after the text", async () => {
  const fake = fakeServer({ online: "ok SEAS\n", message: "message SEAS before\nok sent\nmessage SEAS the answer\n" });
  const pty = await openTo({ port: fake.port });
  pty.type("the question\r");
  await pty.sees("the answer");
  const lines = pty.lines.map((line) => line.slice(6));
  expect(lines.indexOf("✓ to SEAS: the question")).toBeLessThan(lines.indexOf("SEAS: the answer"));
  expect(lines).toContain("✓ to SEAS: the question");
  fake.stop();
});

test("the day is printed before the first line of another day, and again before the first one of today", async () => {
  const old = [Date.UTC(2026, 0, 5, 12), Date.UTC(2026, 0, 5, 12, 1), Date.UTC(2026, 0, 6, 12)];
  const stored = old.map((unixMs, index) => `stored SEAS ${unixMs} number ${index}\n`).join("");
  const fake = fakeServer({ online: "ok SEAS\n" }, `${stored}message SEAS now\n`);
  const pty = open({ port: fake.port, env: { TZ: "UTC" } });
  await pty.sees("here: SEAS");
  const today = new Date().toISOString().slice(0, 10);
  const lines = pty.lines.slice(1, -1).map((line) => line.replace(new RegExp(`\\w+ ${today}`), "today"));
  expect(lines.slice(0, 7).map((line) => line.replace(/^\d\d:\d\d (?=SEAS)/, ""))).toEqual([
    "-- Monday 2026-01-05 --",
    "12:00 ✉ SEAS: number 0",
    "12:01 ✉ SEAS: number 1",
    "-- Tuesday 2026-01-06 --",
    "12:00 ✉ SEAS: number 2",
    "-- today --",
    "SEAS: now",
  ]);
  fake.stop();
});

test("the first screen says who is here and what waited, with the day of each", async () => {
  await seas.message("columbia", "while you were away");
  const pty = open();
  await pty.sees("You are in.");
  await shows(pty, "✉ SEAS: while you were away");
  await shows(pty, "here: SEAS");
  await shows(pty, "* 1 message waited for you: 1 from SEAS");
  await prompts(pty, ">");
});

test("a password with spaces is refused with a sentence and asked again, and is never thrown into the shell", async () => {
  const pty = open({ password: null });
  await pty.sees("Password:");
  pty.type("my secret phrase\r");
  await pty.sees("a password has no spaces; type it again");
  await prompts(pty, "Password:");
  pty.type(`${PASSWORD}\r`);
  await pty.sees("You are in.");
  expect(pty.written).not.toContain("phrase");
});

test("a password with spaces in the environment ends the client with a sentence, since it would be the same again", async () => {
  const pty = open({ password: "my secret phrase" });
  await shows(pty, "a password has no spaces; change HEARTLINE_PASSWORD or the file of --password-file");
  expect(await pty.exited).toBe(1);
});

test("a report of the focus before the login counts after it", async () => {
  const pty = open({ password: null });
  await pty.sees("Password:");
  pty.type("\x1b[I");
  pty.type(`${PASSWORD}\r`);
  await pty.sees("here: SEAS");
  await seas.message("columbia", "hi");
  await pty.sees("SEAS: hi");
  expect(pty.bells).toBe(0);
});

test("an answer with /r shows the name of the last sender before it is typed", async () => {
  const pty = await openTo({}, "foobar");
  await seas.message("columbia", "are you there?");
  await pty.sees("are you there?");
  pty.type("/r ");
  await prompts(pty, "foobar> /msg SEAS");
  pty.type("yes\r");
  await pty.sees("✓ to SEAS: yes");
  pty.type("/reply still\r");
  await pty.sees("✓ to SEAS: still");
  await seasReceives("message yes", "message still");
});

describe("while the connection is lost", () => {
  test("the prompt shows it and a text is waiting; its state and the messages that waited are shown afterwards", async () => {
    const proxy = new Proxy(server.port);
    const pty = await openTo({ port: proxy.port });
    proxy.listens = false;
    proxy.cut();
    await shows(pty, "the connection was lost");
    await prompts(pty, "(lost) SEAS>");
    await seas.message("columbia", "one while away");
    await seas.message("columbia", "two while away");
    pty.type("does it wait?\r");
    await shows(pty, "… to SEAS: does it wait?");
    await prompts(pty, "(lost) SEAS>");
    expect(received).toEqual([]);
    proxy.listens = true;
    await shows(pty, "✓ to SEAS: does it wait?");
    await pty.until(() => /\* back after \d+ s; 2 messages waited for you/.test(pty.text));
    await prompts(pty, "SEAS>");
    await seasReceives("message does it wait?");
    proxy.stop();
  });

  test("Ctrl+C tells what happens to the unsent text and leaves the second time; the next run sends it", async () => {
    const proxy = new Proxy(server.port);
    const pty = await openTo({ port: proxy.port });
    proxy.listens = false;
    proxy.cut();
    await prompts(pty, "(lost) SEAS>");
    pty.type("for later\r");
    await shows(pty, "… to SEAS: for later");
    pty.type("half");
    await prompts(pty, "(lost) SEAS> half");
    pty.type("\x03");
    await prompts(pty, "(lost) SEAS>");
    pty.type("\x03");
    await shows(pty, "1 line has no reply yet: it is saved, and sent at the next login");
    pty.type("\x03");
    expect(await pty.exited).toBe(3);
    proxy.listens = true;
    const next = open({ port: proxy.port });
    await shows(next, "from the last run: message SEAS for later (sent again");
    await seasReceives("message for later");
    proxy.stop();
  });
});

test("a question for a private chat tells how much time is left, and /yes answers it", async () => {
  const pty = await openTo();
  await seas.getAddress("columbia");
  await shows(pty, "? SEAS asks for a private chat; answer with: /yes SEAS, or /no SEAS (60 s left)");
  expect(pty.bells).toBe(1);
  pty.type("/yes\r");
  await shows(pty, "* SEAS can send you private messages now; answer with: /private SEAS <text>");
});

test("presence lines can be switched off, and the names are known all the same", async () => {
  const pty = await openTo();
  pty.type("/presence off\r");
  await pty.sees("presence lines: off");
  const other = await server.login("seashell");
  other.sendLines("message columbia hi");
  await pty.sees("seashell: hi");
  pty.type("/m seash\t");
  await prompts(pty, "SEAS> /m seashell");
  expect(pty.text).not.toContain("* seashell");
});

test("typed lines come back in the next run, except private texts and those with the password", async () => {
  const first = await openTo();
  const dialogue = [
    ["hello one", "✓ to SEAS: hello one"],
    [`/block ${PASSWORD}`, "there is no user"],
    ["/private SEAS psst", "there is no private chat"],
    ["hello two", "✓ to SEAS: hello two"],
  ];
  for (const [typed, seen] of dialogue) {
    first.type(`${typed}\r`);
    await first.sees(seen!);
  }
  first.type("\x04");
  expect(await first.exited).toBe(0);
  const [file] = readdirSync(join(folder, "heartline")).filter((name) => name.endsWith(".history"));
  expect(statSync(join(folder, "heartline", file!)).mode & 0o777).toBe(0o600);
  expect(readFileSync(join(folder, "heartline", file!), "utf8")).not.toMatch(new RegExp(`psst|${PASSWORD}`));
  const second = await openTo();
  second.type("\x1b[A\x1b[A");
  await prompts(second, "SEAS> hello two");
  second.type("\x1b[A");
  await prompts(second, "SEAS> hello one");
});

test("--log writes one file for a partner and day, which /find searches in the next run", async () => {
  const args = ["--log", join(folder, "log")];
  const first = await openTo({ args });
  first.type("lunch at noon?\r");
  await first.sees("✓ to SEAS: lunch at noon?");
  await seas.message("columbia", "noon is fine");
  await first.sees("noon is fine");
  first.type("\x03");
  expect(await first.exited).toBe(0);
  const files = readdirSync(join(folder, "log"));
  expect(files).toHaveLength(1);
  expect(files[0]).toMatch(/^SEAS\.\d{4}-\d\d-\d\d\.log$/);
  expect(statSync(join(folder, "log", files[0]!)).mode & 0o777).toBe(0o600);
  const second = await openTo({ args });
  second.type("/find NOON\r");
  await second.sees("columbia to SEAS: lunch at noon?");
  await second.sees("SEAS: noon is fine");
});

test("without a log nothing is written, and /find searches what was seen", async () => {
  const pty = await openTo();
  await seas.message("columbia", "the key is under the mat");
  await pty.sees("the key");
  pty.type("/find mat KEY\r");
  await pty.until((lines) => lines.filter((line) => line.includes("under the mat")).length === 2);
  expect(readdirSync(folder)).toEqual(["heartline"]);
});

test("a profile gives a server a short name", async () => {
  mkdirSync(join(folder, "heartline"));
  const profile = `bell = false\n[servers.work]\nhost = "127.0.0.1"\nport = ${server.port}\nuser = "columbia"\n`;
  writeFileSync(join(folder, "heartline", "chat.toml"), profile);
  const env = { XDG_STATE_HOME: folder, XDG_CONFIG_HOME: folder, HEARTLINE_PASSWORD: PASSWORD };
  const pty = new Pty(["src/main.ts", "chat", "work"], { columns: 80, rows: 24, env });
  ptys.push(pty);
  await pty.sees("here: SEAS");
  await seas.message("columbia", "hi");
  await pty.sees("SEAS: hi");
  expect(pty.bells).toBe(0);
});

test("the modes of the terminal are switched off at Ctrl+Z, at the end and at SIGHUP, and on again by fg", async () => {
  const [on, off] = ["\x1b[?2004h\x1b[?1004h", "\x1b[?2004l\x1b[?1004l"];
  const ends = (pty: Pty): string[] => pty.written.match(/\x1b\[\?2004[hl]\x1b\[\?1004[hl]/g) ?? [];
  const program = `exec '${process.execPath}' src/main.ts chat columbia@127.0.0.1:${server.port}`;
  const shell = new Pty(["-i"], {
    program: "/bin/sh",
    columns: 80,
    env: { XDG_STATE_HOME: folder, PS1: "$ ", HEARTLINE_PASSWORD: PASSWORD },
  });
  ptys.push(shell);
  shell.type(`sh -c "${program}"\r`);
  await shell.sees("here: SEAS");
  shell.type("half\x1a");
  await shell.until((lines) => lines.at(-1) === "$");
  expect(ends(shell)).toEqual([on, off]);
  shell.type("fg\r");
  await prompts(shell, "> half");
  expect(ends(shell)).toEqual([on, off, on]);
  shell.type("\x03\x03");
  await shell.until((lines) => lines.at(-1) === "$");
  expect(ends(shell)).toEqual([on, off, on, off]);
  const pty = await openTo();
  pty.kill("SIGHUP");
  await pty.exited;
  expect(ends(pty)).toEqual([on, off]);
});

describe("a terminal that can do less", () => {
  test("with TERM=dumb gets no escape sequence, and the chat works", async () => {
    const pty = open({ env: { TERM: "dumb" } });
    await pty.sees("here: SEAS");
    pty.type("/to SEAS\r");
    await pty.sees("SEAS>");
    pty.type("héllo\r");
    await pty.sees("(sent) to SEAS: héllo");
    await seas.message("columbia", "größe 日本");
    await pty.sees("SEAS: größe 日本");
    pty.type("half a");
    await pty.sees("half a");
    await seas.message("columbia", "two");
    await pty.sees("SEAS: two");
    pty.type(" line\r");
    await pty.sees("(sent) to SEAS: half a line");
    expect(pty.written).not.toContain("\x1b");
    expect(pty.bells).toBe(2);
  });

  test.each<[string, Record<string, string>]>([
    ["NO_COLOR", { NO_COLOR: "1" }],
    ["LANG=C", { LANG: "C" }],
  ])("with %s shows states in words", async (_name, env) => {
    const pty = await openTo({ env });
    pty.type("hello\r");
    await pty.sees("(sent) to SEAS: hello");
  });

  test("with 20 columns and 5 rows shows lines in short rows, and the typed line stays whole", async () => {
    const pty = open({ columns: 20, rows: 5 });
    await shows(pty, "here: SEAS");
    pty.type("/to SEAS\r");
    await prompts(pty, "SEAS>");
    pty.type("hello from a small place\r");
    await shows(pty, "✓ to SEAS: hello from a small place");
    pty.type("typing something long");
    await pty.until((lines) => lines.slice(-2).join("") === "SEAS> typing something long");
    await seas.message("columbia", "a text of several rows here");
    await shows(pty, "SEAS: a text of several rows here");
    await pty.until((lines) => lines.slice(-2).join("") === "SEAS> typing something long");
  });
});

test("a storm of sizes leaves the typed line and the lines above it whole", async () => {
  const pty = await openTo({ columns: 100, rows: 30 });
  for (let i = 0; i < 8; i++) await seas.message("columbia", `number ${i} ${"lorem ipsum ".repeat(8)}`);
  await pty.sees("number 7");
  pty.type("typed");
  await prompts(pty, "SEAS> typed");
  for (let i = 0; i < 60; i++) pty.resize(20 + ((i * 37) % 90), 10 + ((i * 13) % 25));
  pty.resize(70, 30);
  await pty.until((lines) => lines.at(-1) === "SEAS> typed" && lines.some((line) => line.includes("number 7")));
  await seas.message("columbia", "after");
  await pty.sees("SEAS: after");
  pty.type(" on\r");
  await shows(pty, "✓ to SEAS: typed on");
});

test("wide and combined characters keep the typed line and the columns in place", async () => {
  const pty = await openTo({ columns: 40, rows: 12 });
  for (const text of ["日本語".repeat(15), "e\u0301".repeat(60), "👩‍💻".repeat(20), "🇩🇪 ".repeat(20)]) {
    await seas.message("columbia", text);
    await seas.message("columbia", "ok");
  }
  await seas.message("columbia", "end of it");
  await pty.sees("SEAS: end of it");
  for (const line of pty.lines) expect(line).toMatch(/^(\d\d:\d\d | {6}\S|SEAS>)/);
  pty.type("日本語 é 👩‍💻\r");
  await seasReceives("message 日本語 é 👩‍💻");
});

test.each(SIZES)("lines that arrive while one types never tear the prompt, at %i x %i", async (columns, rows) => {
  const pty = await openTo({ columns, rows });
  const typed = "the quick brown fox jumps over the lazy dog ".repeat(4).trim();
  for (const [index, key] of [...typed].entries()) {
    pty.type(key);
    if (index % 3 === 0) void seas.message("columbia", `number ${index} ${"x".repeat(index % 90)}`);
    if (index % 30 === 0) await pty.sees(`number ${index}`);
  }
  await seas.message("columbia", "the last one");
  await pty.sees("SEAS: the last one");
  await pty.until((lines) => lines.join("").replaceAll(" ", "").endsWith(typed.replaceAll(" ", "")));
  const all = pty.scrollback;
  const at = all.findIndex((line) => line.startsWith("SEAS>"));
  expect(all.slice(at).join("").replaceAll(" ", "")).toBe(`SEAS>${typed}`.replaceAll(" ", ""));
  const above = all.slice(
    all.findIndex((line) => line.includes("here: SEAS")),
    at,
  );
  for (const line of above) expect(line).toMatch(/^(\d\d:\d\d | {6}\S)/);
  pty.type("\r");
  await seasReceives(`message ${typed}`);
});
