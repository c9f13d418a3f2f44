import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChatClient } from "heartline/client";
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
      ["message SEAS hi", "sent to SEAS"],
      ["message foobar hi", "stored for foobar; it is delivered when foobar is here"],
      ["message nobody hi", "there is no user nobody"],
      ["message SEAS", "usage: message <user> <text>"],
      ["broadcast hi", "sent to 1 user"],
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
    expect(lines[1]).toMatch(/^SEAS on .*: while you were away$/);
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
    await pty.sees("sent to SEAS");
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
    expect(lines.slice(lines.indexOf("* SEAS is here") + 1)).toEqual([
      "SEAS: first",
      "SEAS: a line that is itself wider than t",
      "  his terminal is",
      "SEAS: last",
      ...rows(`> ${typed.slice(0, -2)}XY89`),
    ]);
    pty.type("\r");
    await pty.sees("sent to SEAS");
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
    expect(lines.filter((line) => line.includes("the meeting moved")).length).toBeGreaterThan(5);
    for (const line of lines) expect(line).toMatch(/^(SEAS: | {2}|> ?$|\* |You are in)/);
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
        lines.at(-1) === "> message SEAS typed" && lines.slice(0, -1).every((line) => /^(SEAS: | {2})/.test(line));
      await pty.until(isWell);
      expect(pty.lines.join("").replaceAll(" ", "")).toContain("foobar:moved14");
    }
    pty.type("!\r");
    await pty.sees("sent to SEAS");
  });

  test("pasted U+2028 and U+2029 do not end a command", async () => {
    const pty = await openColumbia();
    const seas = await server.login("SEAS");
    await pty.sees("* SEAS is here");
    pty.type("message SEAS hi\u2028broadcast secrets\u2029logout\r");
    await pty.sees("sent to SEAS");
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
    await pty.sees("sent to SEAS");
    pty.type("yes SEAS\r");
    await pty.sees("* SEAS can send you private messages now; answer with: private SEAS <text>");
    await other.private("columbia", "psst \x1b[2J");
    await pty.until((lines) => lines.includes("[private] SEAS: psst [2J"));
    pty.type("private SEAS yes?\r");
    await pty.sees("sent privately to SEAS");
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
    pty.type("online\rmess");
    await pty.until((lines) => lines.at(-2) === "nobody else is here" && lines.at(-1) === "> mess");
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

  test("Ctrl+C logs out and exits with 0", async () => {
    await other.login("SEAS", PASSWORD);
    const pty = await openColumbia();
    pty.type("half a line\x03");
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

  test("the client prints colours, except with NO_COLOR", async () => {
    const colored = await openColumbia();
    expect(colored.colored).toBe(true);
    colored.type("logout\r");
    await colored.exited;
    expect((await openColumbia({ env: { NO_COLOR: "1" } })).colored).toBe(false);
  });
});

/** Runs a client that reads its commands from a pipe. */
async function pipe(input: string | Uint8Array, args: string[], password?: string) {
  const program = Bun.spawn([process.execPath, "src/main.ts", "chat", ...args], {
    env: {
      PATH: process.env.PATH,
      XDG_STATE_HOME: state,
      ...(password === undefined ? {} : { HEARTLINE_PASSWORD: password }),
    },
    stdin: Buffer.from(input as string),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err, code] = await Promise.all([program.stdout.text(), program.stderr.text(), program.exited]);
  return { out, err, code };
}

describe("in a pipe", () => {
  test("commands are read from standard input, results are plain lines, and the exit code is 0", async () => {
    const { out, err, code } = await pipe(
      "message foobar hi\nonline\n\nmessage nobody x\nmessage columbia  two  spaces \n",
      ["127.0.0.1", String(server.port), "--user", "columbia"],
      PASSWORD,
    );
    expect(out).toBe(
      "stored for foobar; it is delivered when foobar is here\nnobody else is here\ncolumbia: two  spaces \nsent to columbia\n",
    );
    expect(err).toBe("there is no user nobody\n");
    expect(code).toBe(0);
  });

  test("the password is the first line of --password-file, which wins over HEARTLINE_PASSWORD", async () => {
    const file = join(state, "password");
    const at = ["127.0.0.1", String(server.port), "--user", "columbia"];
    writeFileSync(file, `${PASSWORD}\r\nnotes\n`, { mode: 0o600 });
    expect(await pipe("", [...at, "--password-file", file], "wrong")).toEqual({ out: "", err: "", code: 0 });
    writeFileSync(file, "wrong");
    const { err } = await pipe("", [...at, "--password-file", file], PASSWORD);
    expect(err).toContain("wrong password");
  });

  test("a --password-file that others can read is a warning, and one that cannot be used ends the client", async () => {
    const file = join(state, "password");
    const at = ["127.0.0.1", String(server.port), "--user", "columbia"];
    writeFileSync(file, PASSWORD);
    for (const mode of [0o640, 0o604]) {
      chmodSync(file, mode);
      const err = `heartline: others can read ${file}; make it private with chmod 600\n`;
      expect(await pipe("", [...at, "--password-file", file])).toEqual({ out: "", err, code: 0 });
    }
    const [empty, latin] = [join(state, "empty"), join(state, "latin")];
    writeFileSync(empty, "\nsecret\n");
    writeFileSync(latin, "p\xe4ss", "latin1");
    for (const [name, why] of [
      [empty, `--password-file ${empty}: its first line is empty`],
      [latin, `--password-file ${latin}: it is not UTF-8 text`],
      [state, `cannot read --password-file ${state}: it is a folder`],
      ["missing", "cannot read --password-file missing: there is no such file"],
    ]) {
      const { out, err, code } = await pipe("", [...at, "--password-file", name!]);
      expect({ out, code }).toEqual({ out: "", code: 2 });
      expect(err).toMatch(/^[^\n]*\n$/);
      expect(err).toContain(why!);
    }
  });

  describe("a line of a script", () => {
    /** Runs a script of columbia, given with one character per byte; returns the lines that SEAS receives. */
    async function received(script: string): Promise<{ lines: string[]; out: string; err: string }> {
      const seas = await server.login("SEAS");
      const at = ["127.0.0.1", String(server.port), "--user", "columbia"];
      const { out, err } = await pipe(Buffer.from(script, "latin1"), at, PASSWORD);
      const [, ...lines] = await seas.until("left columbia logout");
      return { lines, out, err };
    }

    test("ends at LF only", async () => {
      const ends = ["\xe2\x80\xa8", "\xe2\x80\xa9", "\r", "\x0b", "\x0c", "\xc2\x85", "\x00", "\x1e"];
      const { lines, out, err } = await received(
        ends.map((end) => `message SEAS hi${end}broadcast secrets\n`).join(""),
      );
      expect(lines).toEqual(ends.map((end) => `message columbia hi${end}broadcast secrets`));
      expect({ out, err }).toEqual({ out: "sent to SEAS\n".repeat(ends.length), err: "" });
    });

    test("loses one CR at its end, and no other byte", async () => {
      const { lines } = await received(
        "message SEAS one\r\nmessage SEAS two\r\r\nmessage SEAS \xe3\x80\x80three\xc2\xa0\n",
      );
      const texts = ["one", "two\r", "\xe3\x80\x80three\xc2\xa0"];
      expect(lines).toEqual(texts.map((text) => `message columbia ${text}`));
    });

    test("may have bytes that are not UTF-8, which reach the pipe of the recipient unchanged", async () => {
      const bytes = Array.from({ length: 128 }, (_, index) => String.fromCharCode(128 + index)).join("");
      const { lines } = await received(
        `message SEAS caf\xe9\nbroadcast ${bytes}\nmessage foobar \xff\xfe\xed\xa0\x80\n`,
      );
      expect(lines).toEqual(["message columbia caf\xe9", `broadcast columbia ${bytes}`]);
      const program = Bun.spawn(
        [process.execPath, "src/main.ts", "chat", "127.0.0.1", String(server.port), "--user", "foobar"],
        { env: { XDG_STATE_HOME: state, HEARTLINE_PASSWORD: PASSWORD }, stdin: "ignore", stdout: "pipe" },
      );
      expect(Buffer.from(await program.stdout.bytes()).toString("latin1")).toEndWith(": \xff\xfe\xed\xa0\x80\n");
    });

    test("is complete without LF at the end of the input, and loses a byte order mark at the beginning of the input", async () => {
      const { lines } = await received("\xef\xbb\xbfmessage SEAS one\nmessage SEAS two");
      expect(lines).toEqual(["message columbia one", "message columbia two"]);
    });

    test("that is too long is skipped with a message, and the next line is carried out", async () => {
      const long = "x".repeat(600_000);
      const { lines, err } = await received(
        `message SEAS ${long}\nmessage SEAS ${long.slice(0, 5000)}\nmessage SEAS short\n`,
      );
      expect(lines).toEqual(["message columbia short"]);
      expect(err).toBe(
        "a line has more than 524288 bytes; it is skipped\nthe line is too long for this server; send a shorter text\n",
      );
    });
  });

  test("private messages of a script wait for the answer to getaddress, and arrive before the script exits", async () => {
    other.close();
    const answered = Promise.withResolvers<void>();
    const received: string[] = [];
    other = new ChatClient({
      host: "127.0.0.1",
      port: server.port,
      listenPort: 0,
      onEvent: (event) => {
        if (event.kind === "asked") other.answer(event.user, event.user === "columbia").then(answered.resolve);
        if (event.kind === "private") received.push(event.text);
      },
    });
    await other.login("SEAS", PASSWORD);
    const texts = Array.from({ length: 100 }, (_, index) => `number ${index}`);
    const input = `getaddress SEAS\n${texts.map((text) => `private SEAS ${text}\n`).join("")}`;
    const at = ["127.0.0.1", String(server.port), "--user"];
    const { out, err, code } = await pipe(input, [...at, "columbia", "--no-listen"], PASSWORD);
    await answered.promise;
    expect({ err, code }).toEqual({ err: "", code: 0 });
    expect(out.match(/sent privately to SEAS/g)).toHaveLength(100);
    expect(received).toEqual(texts);
    const refused = await pipe("getaddress SEAS\nprivate SEAS hi\n", [...at, "foobar"], PASSWORD);
    expect(refused.out).toContain("* SEAS refused the private chat, did not answer, or is not here\n");
    // The refusal may arrive before the private message is sent, or while it waits.
    expect(refused.err).toMatch(/^(SEAS refused the private chat|there is no private chat with SEAS)/);
  });

  test("a port for private chats that is in use is reported in one line, with exit code 1", async () => {
    const at = ["127.0.0.1", String(server.port), "--user", "columbia", "--listen", String(server.port)];
    const { err, code } = await pipe("", at, PASSWORD);
    const hint = "choose another port with --listen, or use --no-listen";
    expect(err).toBe(`heartline: cannot listen for private chats: the port is already in use; ${hint}\n`);
    expect(code).toBe(1);
    const both = await pipe("", [...at, "--no-listen"], PASSWORD);
    expect(both).toMatchObject({ err: expect.stringContaining("not both"), code: 2 });
  });

  test("all messages that waited at the login are printed before the client exits", async () => {
    await other.login("SEAS", PASSWORD);
    const padding = "x".repeat(500); // More bytes than the server delivers before the first acknowledgement.
    await Promise.all(
      Array.from({ length: 2000 }, (_, index) => other.message("columbia", `number ${index} ${padding}`)),
    );
    const { out, code } = await pipe("", ["127.0.0.1", String(server.port), "--user", "columbia"], PASSWORD);
    const numbers = [...(out.match(/number \d+/g) ?? [])];
    expect(numbers).toEqual(Array.from({ length: 2000 }, (_, index) => `number ${index}`));
    expect(code).toBe(0);
  });

  test("a failed login prints its reason on stderr and exits with 1", async () => {
    const at = ["127.0.0.1", String(server.port), "--user"];
    expect(await pipe("", [...at, "columbia"], "wrong")).toEqual({
      out: "",
      err: "heartline: wrong password; 2 tries left\n",
      code: 1,
    });
    expect(await pipe("", [...at, "nobody"], "x")).toMatchObject({
      err: "heartline: there is no user nobody\n",
      code: 1,
    });
    expect(await pipe("", ["127.0.0.1", "1", "--user", "columbia"], "x")).toMatchObject({
      err: "heartline: cannot reach 127.0.0.1:1: no server listens there; check the host and the port\n",
      code: 1,
    });
  });

  test("a second client of the user on this machine takes over the session: no message is lost or printed twice", async () => {
    await other.login("SEAS", PASSWORD);
    const at = ["127.0.0.1", String(server.port), "--user", "columbia"];
    const first = Bun.spawn([process.execPath, "src/main.ts", "chat", ...at], {
      env: { XDG_STATE_HOME: state, HEARTLINE_PASSWORD: PASSWORD },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
    });
    while (!(await other.online()).names.includes("columbia")) continue;
    const texts: string[] = [];
    const send = async (): Promise<void> => {
      const text = `number ${texts.length};`;
      texts.push(text);
      await other.message("columbia", text);
    };
    for (let i = 0; i < 20; i++) await send();
    const second = pipe("online\n", at, PASSWORD);
    while (first.exitCode === null) await Promise.race([send(), first.exited]);
    expect(await first.exited).toBe(3);
    expect(await first.stderr.text()).toBe(
      "heartline: another client of the same user on this machine has taken over the session\n",
    );
    const { out, code } = await second;
    expect(code).toBe(0);
    // A third client gets the rest.
    const third = await pipe("", at, PASSWORD);
    const all = (await first.stdout.text()) + out + third.out;
    expect([...(all.match(/number \d+;/g) ?? [])]).toEqual(texts);
  });

  test("a state folder that cannot be used is reported in one line, and nobody is logged in", async () => {
    await other.login("columbia", PASSWORD);
    state = join(process.execPath, "state");
    const { err, code } = await pipe("", ["127.0.0.1", String(server.port), "--user", "columbia"], PASSWORD);
    state = mkdtempSync(join(tmpdir(), "heartline-"));
    expect(err).toMatch(/^heartline: cannot use the state folder .*: .*; XDG_STATE_HOME sets another one\n$/);
    expect(code).toBe(1);
    expect((await other.online()).names).toEqual([]);
  });

  test("a reader that closes the pipe ends the client without a message", async () => {
    const client = `${process.execPath} src/main.ts chat 127.0.0.1 ${server.port} --user columbia`;
    const program = Bun.spawn(["sh", "-c", `yes help | head -2000 | ${client} | head -1`], {
      env: { PATH: process.env.PATH, XDG_STATE_HOME: state, HEARTLINE_PASSWORD: PASSWORD },
      stdout: "pipe",
      stderr: "pipe",
    });
    expect(await program.stderr.text()).toBe("");
    expect(await program.stdout.text()).toContain("message <user> <text>");
  });

  test("an invalid command line is reported in one line, with exit code 2", async () => {
    for (const args of [
      [],
      ["127.0.0.1"],
      ["127.0.0.1", "x"],
      ["127.0.0.1", "1", "2"],
      ["127.0.0.1", "1", "--wat"],
      ["127.0.0.1", "1", "--user", "b..b"],
    ]) {
      const { err, code } = await pipe("", args);
      expect(err).toMatch(/^heartline: .*\n$/);
      expect(code).toBe(2);
    }
    expect(await pipe("", ["127.0.0.1", "6001"])).toMatchObject({ code: 2 });
    expect(await pipe("", ["--help"])).toMatchObject({ code: 0, err: "" });
  });
});
