import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChatClient } from "heartline/client";
import { kick } from "../../src/chat/operator.ts";
import { PASSWORD, WireServer } from "../support/wire.ts";
import { Pty } from "../support/pty.ts";

const USERS = ["columbia", "SEAS", "foobar"];
let server: WireServer;
let state: string;
let other: ChatClient;
const ptys: Pty[] = [];

beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), "heartline-"));
  server = new WireServer({}, USERS);
  other = new ChatClient({ host: "127.0.0.1", port: server.port });
});

afterEach(async () => {
  other.close();
  for (const pty of ptys.splice(0)) pty.end();
  await server.stop();
  rmSync(state, { recursive: true });
});

function openClient(
  args: string[] = [],
  options: ConstructorParameters<typeof Pty>[1] = {},
  port: number = server.port,
): Pty {
  const pty = new Pty(["src/main.ts", "chat", "127.0.0.1", String(port), ...args], {
    ...options,
    env: { XDG_STATE_HOME: state, ...options.env },
  });
  ptys.push(pty);
  return pty;
}

/** A client on a terminal, logged in as columbia, with an empty prompt. */
async function openColumbia(options: ConstructorParameters<typeof Pty>[1] = {}): Promise<Pty> {
  const pty = openClient(["--user", "columbia"], {
    ...options,
    env: { ...options.env, HEARTLINE_PASSWORD: PASSWORD },
  });
  await pty.until((lines) => lines.at(-1) === ">");
  return pty;
}

describe("on a terminal", () => {
  test("the client asks for name and password until the login succeeds, and never shows the password", async () => {
    const pty = openClient();
    await pty.sees("Name:");
    pty.type("b..b\r");
    await pty.sees("b..b cannot be a user name");
    await pty.until((lines) => lines.at(-1) === "Name:");
    pty.type("nobody\r");
    await pty.sees("Password:");
    pty.type(`${PASSWORD}\r`);
    await pty.sees("there is no user nobody");
    await pty.until((lines) => lines.at(-1) === "Name:");
    pty.type("columbia\r");
    await pty.until((lines) => lines.at(-1) === "Password:");
    pty.type("wrong1\r");
    await pty.sees("wrong password; 2 tries left");
    await pty.until((lines) => lines.at(-1) === "Password:");
    pty.type(`${PASSWORD}\r`);
    const lines = await pty.until((lines) => lines.at(-1) === ">");
    expect(lines.join("\n")).not.toMatch(new RegExp(`${PASSWORD}|wrong1`));
    expect((await other.login("SEAS", PASSWORD)).token).toBeTruthy();
    expect((await other.online()).names).toEqual(["columbia"]);
  });

  test("the arrow keys bring back commands, but neither the name nor the password", async () => {
    const pty = openClient();
    await pty.sees("Name:");
    pty.type("columbia\r");
    await pty.sees("Password:");
    pty.type(`${PASSWORD}\r`);
    await pty.until((lines) => lines.at(-1) === ">");
    pty.type("\x1b[A\x1b[A\x1b[A!\r");
    await pty.sees("there is no command !");
    pty.type("online\r");
    await pty.sees("nobody else is here");
    pty.type("\x1b[A");
    await pty.until((lines) => lines.at(-1) === "> online");
  });

  test("the third wrong password prints the lockout time and exits with 1", async () => {
    const pty = openClient(["--user", "columbia"], { columns: 100 });
    for (const left of ["2 tries left", "1 try left", "locked out from this address for 60 seconds"]) {
      await pty.until((lines) => lines.at(-1) === "Password:");
      pty.type("wrong\r");
      await pty.sees(left);
    }
    expect(await pty.exited).toBe(1);
  });

  test("each command prints its result or the reason of a refusal", async () => {
    const pty = await openColumbia({ columns: 90 });
    await other.login("SEAS", PASSWORD);
    await pty.sees("* SEAS is here");
    const dialogue: [typed: string, seen: string][] = [
      ["message SEAS hi", "✓ to SEAS: hi"],
      ["message foobar hi", "✉ to foobar: hi"],
      ["message nobody hi", "there is no user nobody"],
      ["message SEAS", "usage: message <user> <text>"],
      ["broadcast hi", "✓ to all: hi"],
      ["online", "here: SEAS"],
      ["block SEAS", "SEAS is blocked"],
      ["block SEAS", "SEAS is blocked already"],
      ["unblock SEAS", "SEAS is no longer blocked"],
      ["unblock SEAS", "SEAS is not blocked"],
      ["dance", "there is no command dance; help lists the commands"],
      ["help", "message <user> <text>    sends to a user"],
    ];
    for (const [typed, seen] of dialogue) {
      pty.type(`${typed}\r`);
      await pty.sees(seen);
    }
  });

  test("messages that waited for the user are printed after the line about the login", async () => {
    await other.login("SEAS", PASSWORD);
    await other.message("columbia", "while you were away");
    const pty = await openColumbia();
    const lines = await pty.sees("while you were away");
    expect(lines[0]).toContain("You are in");
    expect(lines[1]).toMatch(/^\d\d:\d\d ✉ SEAS: while you were away$/);
    await pty.sees("* 1 message waited for you: 1 from SEAS");
  });

  test("Tab completes commands and the names in earlier events", async () => {
    const pty = await openColumbia();
    await other.login("SEAS", PASSWORD);
    await pty.sees("* SEAS is here");
    pty.type("mes\t");
    await pty.until((lines) => lines.at(-1) === "> message");
    pty.type("SE\t");
    await pty.until((lines) => lines.at(-1) === "> message SEAS");
    pty.type("hello\r");
    await pty.sees("✓ to SEAS: hello");
  });

  test("an event is printed above the typed line, also when that line has several rows", async () => {
    const pty = await openColumbia({ columns: 40 });
    await other.login("SEAS", PASSWORD);
    await pty.sees("* SEAS is here");
    const typed = `message SEAS ${"0123456789".repeat(9)}`;
    pty.type(typed);
    await pty.until((lines) => lines.join("").endsWith("789"));
    for (const text of ["first", "a line that is itself wider than this terminal is", "last"]) {
      await other.message("columbia", text);
    }
    await pty.sees("SEAS: last");
    pty.type("\x1b[D\x1b[DXY");
    const lines = await pty.until((lines) => lines.join("").endsWith("7XY89"));
    const rows = (line: string): string[] => line.match(/.{1,40}/g)!.map((row) => row.trimEnd());
    const first = lines.findIndex((line) => line.includes("* SEAS is here")) + 1;
    expect(lines.slice(first).map((line) => line.replace(/^\d\d:\d\d /, ""))).toEqual([
      "SEAS: first",
      "SEAS: a line that is itself wider",
      "      than this terminal is",
      "SEAS: last",
      ...rows(`> ${typed.slice(0, -2)}XY89`),
    ]);
    pty.type("\r");
    await pty.sees("✓ to SEAS: 0123456789");
  });

  test("the typed line stays intact when the window becomes narrower", async () => {
    const pty = await openColumbia({ columns: 60 });
    await other.login("SEAS", PASSWORD);
    await pty.sees("* SEAS is here");
    pty.type("message SEAS 012345678901234567890123456789012345");
    await pty.until((lines) => lines.at(-1)!.endsWith("2345"));
    pty.resize(30);
    await other.message("columbia", "hello");
    await pty.sees("SEAS: hello");
    await pty.until((lines) => lines.slice(-2).join("") === "> message SEAS 012345678901234567890123456789012345");
  });

  test("control characters in the text of another user do not reach the terminal", async () => {
    const pty = await openColumbia();
    await other.login("SEAS", PASSWORD);
    await other.message("columbia", "\x1b[2J\x1b[Hgone\x07\u009b2J\u202e!");
    await pty.sees("SEAS: [2J[Hgone2J!");
    expect(pty.lines[0]).toContain("You are in");
  });

  test("a text that fills its row continues in an indented row, so that it cannot look like a line of another user", async () => {
    const pty = await openColumbia({ columns: 80 });
    await other.login("SEAS", PASSWORD);
    const imitation = "foobar: the meeting moved to 3 pm";
    const texts = [
      `lunch?${" ".repeat(68)}${imitation}`,
      // Terminals do not agree on how wide these are.
      ...["👩‍👩‍👧‍👦", "❤️", "🇩🇪", "\u1160", "e\u0301", "日"].flatMap((filler) =>
        [20, 25, 37, 38, 74].map((count) => filler.repeat(count) + imitation),
      ),
    ];
    for (const text of texts) await other.message("columbia", text);
    await other.message("columbia", "last");
    const lines = await pty.sees("SEAS: last");
    expect(lines.filter((line) => line.includes("the meeting moved")).length).toBeGreaterThan(4);
    for (const line of lines)
      expect(line).toMatch(/^(\d\d:\d\d SEAS: | {6}|> ?$|\d\d:\d\d (\* |nobody else|here: )|You are in)/);
  });

  test("printed lines are indented again when the window becomes narrower", async () => {
    const pty = await openColumbia({ columns: 60, rows: 12 });
    await other.login("SEAS", PASSWORD);
    await pty.sees("* SEAS is here");
    for (let i = 0; i < 15; i++) await other.message("columbia", `${"foobar: moved ".repeat(6)}${i}`);
    await pty.sees("moved 14");
    pty.type("message SEAS typed");
    await pty.until((lines) => lines.at(-1) === "> message SEAS typed");
    for (const columns of [46, 34, 50, 20, 60]) {
      pty.resize(columns);
      const isWell = (lines: string[]): boolean =>
        lines.at(-1) === "> message SEAS typed" &&
        lines.slice(0, -1).every((line) => /^(\d\d:\d\d SEAS: | {2})/.test(line));
      await pty.until(isWell);
      expect(pty.lines.join("").replaceAll(" ", "")).toContain("foobar:moved14");
    }
    pty.type("!\r");
    await pty.sees("✓ to SEAS: typed!");
  });

  test("pasted U+2028 and U+2029 do not end a command", async () => {
    const pty = await openColumbia();
    const seas = await server.login("SEAS");
    await pty.sees("* SEAS is here");
    pty.type("message SEAS hi\u2028broadcast secrets\u2029logout\r");
    await pty.sees("✓ to SEAS: hi broadcast secrets");
    await seas.expectLines("message columbia hi broadcast secrets logout");
  });

  test("a request for a private chat keeps the typed line intact, and private lines are marked", async () => {
    const pty = await openColumbia({ columns: 90 });
    await other.login("SEAS", PASSWORD);
    await pty.sees("* SEAS is here");
    pty.type("message SEAS half a");
    await pty.until((lines) => lines.at(-1) === "> message SEAS half a");
    await other.getAddress("columbia");
    await pty.sees("? SEAS asks for a private chat; answer with: yes SEAS, or no SEAS");
    await pty.until((lines) => lines.at(-1) === "> message SEAS half a");
    pty.type(" line\r");
    await pty.sees("✓ to SEAS: half a line");
    pty.type("yes SEAS\r");
    await pty.sees("* SEAS can send you private messages now; answer with: private SEAS <text>");
    await other.private("columbia", "psst \x1b[2J");
    await pty.sees("[private] SEAS: psst [2J");
    pty.type("private SEAS yes?\r");
    await pty.sees("✓ [private] to SEAS: yes?");
    pty.type("verify SEAS\r");
    await pty.sees(`safety number with SEAS: ${other.safetyNumber("columbia")}`);
    await other.logout();
    await pty.sees("* the private chat with SEAS has ended");
    pty.type("private SEAS are you there?\r");
    await pty.sees("there is no private chat with SEAS; getaddress SEAS asks for one");
    pty.type("getaddress SEAS\r");
    await pty.sees("SEAS is not here");
    pty.type("yes SEAS\r");
    await pty.sees("SEAS has not asked for a private chat in the last minute");
  });

  test("a result that arrives while the user types leaves the cursor in place", async () => {
    const pty = await openColumbia();
    await pty.sees("nobody else is here");
    pty.type("online\rmess");
    await pty.until((lines) => lines.at(-2)?.includes("nobody else is here") === true && lines.at(-1) === "> mess");
    pty.type("X\r");
    await pty.sees("there is no command messX");
  });

  test("Ctrl+Z stops the client and its parent, and fg continues with the typed line", async () => {
    const pty = new Pty(["-i"], { program: "/bin/sh", env: { XDG_STATE_HOME: state, PS1: "$ " } });
    ptys.push(pty);
    const run = `'${process.execPath}' run client 127.0.0.1 ${server.port} --user columbia`;
    pty.type(`${run}\r`);
    for (let times = 0; times < 2; times++) {
      await pty.until((lines) => lines.at(-1) === "Password:");
      pty.type("\x1a");
      await pty.until((lines) => lines.at(-1) === "$");
      pty.type("fg\r");
    }
    await pty.until((lines) => lines.at(-1) === "Password:");
    pty.type(`${PASSWORD}\r`);
    await pty.until((lines) => lines.at(-1) === ">");
    pty.type("onl\x1a");
    await pty.until((lines) => lines.at(-1) === "$");
    pty.type("fg\r");
    await pty.until((lines) => lines.at(-1) === "> onl");
    pty.type("ine\r");
    const lines = await pty.sees("nobody else is here");
    expect(lines.join()).not.toContain(PASSWORD);
  });

  test("Ctrl+Z without a job-control shell has no effect", async () => {
    const pty = await openColumbia();
    pty.type("onl\x1aine\r");
    await pty.sees("nobody else is here");
  });

  test("Ctrl+C exits with 1 while the server does not answer", async () => {
    const asked = Promise.withResolvers<void>();
    const silent = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => asked.resolve() } });
    const pty = openClient(["--user", "columbia"], { env: { HEARTLINE_PASSWORD: PASSWORD } }, silent.port);
    await asked.promise;
    pty.type("\x03");
    await pty.sees("not logged in");
    expect(await pty.exited).toBe(1);
    silent.stop(true);
  });

  test("Ctrl+C clears a typed line, and on an empty one logs out and exits with 0", async () => {
    await other.login("SEAS", PASSWORD);
    const pty = await openColumbia();
    pty.type("half a line");
    await pty.until((lines) => lines.at(-1) === "> half a line");
    pty.type("\x03");
    await pty.until((lines) => lines.at(-1) === ">");
    pty.type("\x03");
    expect(await pty.exited).toBe(0);
    expect((await other.online()).names).toEqual([]);
  });

  test.each(["SIGHUP", "SIGQUIT", "SIGTERM", "SIGINT"] as const)(
    "%s at the password question restores the terminal",
    async (signal) => {
      const pty = new Pty(["-i"], { columns: 100, rows: 40, program: "/bin/sh", env: { PS1: "$ " } });
      ptys.push(pty);
      const client = `${process.execPath} src/main.ts chat 127.0.0.1 ${server.port} --user columbia`;
      await pty.until((lines) => lines.at(-1) === "$");
      pty.type(`XDG_STATE_HOME=${state} sh -c 'echo pid=$$; exec ${client}'\r`);
      const lines = await pty.sees("Password:");
      process.kill(Number(/^pid=(\d+)$/m.exec(lines.join("\n"))![1]), signal);
      await pty.sees("not logged in");
      await pty.until((lines) => lines.at(-1) === "$");
      pty.type("stty -a; echo done\r");
      const modes = (await pty.until((lines) => lines.includes("done"))).join("\n");
      expect(modes).toMatch(/ icanon .* echo /s);
      expect(modes).not.toMatch(/ -(icanon|echo) /);
    },
  );

  test.each(["SIGHUP", "SIGQUIT", "SIGTERM", "SIGINT", "a closed window"] as const)(
    "%s logs the user out",
    async (end) => {
      const seas = await server.login("SEAS");
      const pty = await openColumbia();
      await seas.expectLines("joined columbia");
      if (end === "a closed window") pty.hangUp();
      else pty.kill(end);
      await seas.expectLines("left columbia logout");
      await pty.exited;
    },
  );

  test("a terminal that takes no more output logs the user out, and what it did not take comes at the next login", async () => {
    const seas = await server.login("SEAS");
    const screen = new Pty(["-c", "tty; exec sleep 1000"], { program: "/bin/sh" });
    ptys.push(screen);
    const [path] = await screen.sees("/dev/pts/");
    const client = `${process.execPath} src/main.ts chat 127.0.0.1 ${server.port} --user columbia`;
    const pty = new Pty(["-c", `exec ${client} >${path}`], {
      program: "/bin/sh",
      env: { XDG_STATE_HOME: state, HEARTLINE_PASSWORD: PASSWORD },
    });
    ptys.push(pty);
    await screen.until((lines) => lines.at(-1) === ">");
    await seas.expectLines("joined columbia");
    screen.hangUp();
    await seas.expectReply("message columbia hi", "ok sent");
    await seas.expectLines("left columbia logout");
    expect(await pty.exited).toBe(3);
    const columbia = await server.login("columbia");
    await columbia.expectLines("stored SEAS <ms> hi");
  });

  test("logout exits with 0, and Ctrl+C before the login exits with 1", async () => {
    const pty = await openColumbia();
    pty.type("logout\r");
    expect(await pty.exited).toBe(0);
    const early = openClient();
    await early.sees("Name:");
    early.type("\x03");
    expect(await early.exited).toBe(1);
  });

  test("the goodbye of the server is printed, and the client exits with 3", async () => {
    const pty = await openColumbia();
    await other.login("columbia", PASSWORD);
    await pty.sees("You logged in somewhere else");
    expect(await pty.exited).toBe(3);
  });

  test("a kicked client prints the words of the operator, does not come back, and exits with 3", async () => {
    const pty = await openColumbia();
    const { chat, turn } = server.server.administered;
    turn.begin();
    kick(chat, chat.accounts.named("columbia")!, Buffer.from("see the rules"));
    await pty.sees("see the rules");
    expect(await pty.exited).toBe(3);
    expect(chat.presence.online).toEqual([]);
  });

  test("the client prints colours, except with NO_COLOR", async () => {
    const colored = await openColumbia();
    expect(colored.colored).toBe(true);
    colored.type("logout\r");
    await colored.exited;
    expect((await openColumbia({ env: { NO_COLOR: "1" } })).colored).toBe(false);
  });
});
