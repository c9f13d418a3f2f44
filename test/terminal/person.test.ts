import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChatClient } from "heartline/client";
import { Pty } from "../support/pty.ts";
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
}

function open({ columns = 80, rows = 24, env = {}, args = [], port = server.port }: Choices = {}): Pty {
  const pty = new Pty(["src/main.ts", "chat", `columbia@127.0.0.1:${port}`, ...args], {
    columns,
    rows,
    env: { XDG_STATE_HOME: folder, XDG_CONFIG_HOME: folder, HEARTLINE_PASSWORD: PASSWORD, ...env },
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
    expect(pty.lines.filter((line) => line.includes("hello there"))).toHaveLength(1);
    expect(pty.lines.find((line) => line.includes("hello"))).toMatch(/^\d\d:\d\d ✓ to SEAS: hello there$/);
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
    await shows(pty, "Enter again says it to SEAS, Esc discards it");
    await prompts(pty, "SEAS> broadcast my secret");
    pty.type("\x1b");
    await prompts(pty, "SEAS>");
    pty.type("online in a minute\r");
    await shows(pty, '"online" is also a command, which is /online here');
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
    expect(received.slice(4)).toEqual(["message end"]);
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
