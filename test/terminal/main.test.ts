import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
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

/** A client on a terminal whose user is in and has an empty prompt. */
async function columbiaIsIn(options: ConstructorParameters<typeof Pty>[1] = {}): Promise<Pty> {
  const pty = openClient(["--user", "columbia"], {
    ...options,
    env: { ...options.env, HEARTLINE_PASSWORD: PASSWORD },
  });
  await pty.until((lines) => lines.at(-1) === ">");
  return pty;
}

describe("on a terminal", () => {
  test("name and password are asked until they are right; the password is never shown", async () => {
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

  test("neither name nor password come back with the arrow keys, but commands do", async () => {
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

  test("three wrong passwords lock out, say for how long, and end the program with 1", async () => {
    const pty = openClient(["--user", "columbia"], { columns: 100 });
    for (const left of ["2 tries left", "1 try left", "locked out from here for 60 seconds"]) {
      await pty.until((lines) => lines.at(-1) === "Password:");
      pty.type("wrong\r");
      await pty.sees(left);
    }
    expect(await pty.exited).toBe(1);
  });

  test("the commands say what they did", async () => {
    const pty = await columbiaIsIn({ columns: 90 });
    await other.login("SEAS", PASSWORD);
    await pty.sees("* SEAS is here");
    const dialogue: [typed: string, seen: string][] = [
      ["message SEAS hi", "sent to SEAS"],
      ["message foobar hi", "stored for foobar, who is not here"],
      ["message nobody hi", "there is no user nobody"],
      ["message SEAS", "usage: message <user> <text>"],
      ["broadcast hi", "sent to 1 user"],
      ["online", "here: SEAS"],
      ["block SEAS", "SEAS is blocked"],
      ["block SEAS", "SEAS is blocked already"],
      ["unblock SEAS", "SEAS is not blocked any more"],
      ["unblock SEAS", "SEAS is not blocked"],
      ["dance", "there is no command dance; help lists them"],
      ["help", "message <user> <text>    says something"],
    ];
    for (const [typed, seen] of dialogue) {
      pty.type(`${typed}\r`);
      await pty.sees(seen);
    }
  });

  test("what waited is shown below the line that says that one is in", async () => {
    await other.login("SEAS", PASSWORD);
    await other.message("columbia", "while you were away");
    const pty = await columbiaIsIn();
    const lines = await pty.sees("while you were away");
    expect(lines[0]).toContain("You are in");
    expect(lines[1]).toMatch(/^SEAS on .*: while you were away$/);
  });

  test("tab completes commands and the names that were seen", async () => {
    const pty = await columbiaIsIn();
    await other.login("SEAS", PASSWORD);
    await pty.sees("* SEAS is here");
    pty.type("mes\t");
    await pty.until((lines) => lines.at(-1) === "> message");
    pty.type("SE\t");
    await pty.until((lines) => lines.at(-1) === "> message SEAS");
    pty.type("hello\r");
    await pty.sees("sent to SEAS");
  });

  test("what arrives does not tear the line that is being typed, nor is it swallowed by one over several rows", async () => {
    const pty = await columbiaIsIn({ columns: 40 });
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

  test("a typed line survives a narrower window", async () => {
    const pty = await columbiaIsIn({ columns: 60 });
    await other.login("SEAS", PASSWORD);
    await pty.sees("* SEAS is here");
    pty.type("message SEAS 012345678901234567890123456789012345");
    await pty.until((lines) => lines.at(-1)!.endsWith("2345"));
    pty.resize(30);
    await other.message("columbia", "hello");
    await pty.sees("SEAS: hello");
    await pty.until((lines) => lines.slice(-2).join("") === "> message SEAS 012345678901234567890123456789012345");
  });

  test("control characters of others reach no terminal", async () => {
    const pty = await columbiaIsIn();
    await other.login("SEAS", PASSWORD);
    await other.message("columbia", "\x1b[2J\x1b[Hgone\x07\u009b2J\u202e!");
    await pty.sees("SEAS: [2J[Hgone2J!");
    expect(pty.lines[0]).toContain("You are in");
  });

  test("a text that fills the row does not begin the next one, where another user's line would begin", async () => {
    const pty = await columbiaIsIn({ columns: 80 });
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

  test("a text begins no row like another user's line when the window gets narrower later", async () => {
    const pty = await columbiaIsIn({ columns: 60, rows: 12 });
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

  test("pasted line separators of Unicode end no command", async () => {
    const pty = await columbiaIsIn();
    const seas = await server.login("SEAS");
    await pty.sees("* SEAS is here");
    pty.type("message SEAS hi\u2028broadcast secrets\u2029logout\r");
    await pty.sees("sent to SEAS");
    await seas.hears("message columbia hi broadcast secrets logout");
  });

  test("who asks to chat privately does not tear what is being typed, and private lines are marked", async () => {
    const pty = await columbiaIsIn({ columns: 90 });
    await other.login("SEAS", PASSWORD);
    await pty.sees("* SEAS is here");
    pty.type("message SEAS half a");
    await pty.until((lines) => lines.at(-1) === "> message SEAS half a");
    await other.getAddress("columbia");
    await pty.sees("? SEAS asks to chat privately: yes SEAS, or no SEAS");
    await pty.until((lines) => lines.at(-1) === "> message SEAS half a");
    pty.type(" line\r");
    await pty.sees("sent to SEAS");
    pty.type("yes SEAS\r");
    await pty.sees("* SEAS may write to you privately now; private SEAS <text> answers");
    await other.private("columbia", "psst \x1b[2J");
    await pty.until((lines) => lines.includes("[private] SEAS: psst [2J"));
    pty.type("private SEAS yes?\r");
    await pty.sees("sent privately to SEAS");
    pty.type("verify SEAS\r");
    await pty.sees(`safety number with SEAS: ${other.safetyNumber("columbia")}`);
    await other.logout();
    await pty.sees("* the private chat with SEAS is over");
    pty.type("private SEAS are you there?\r");
    await pty.sees("there is no private chat with SEAS; getaddress SEAS asks for one");
    pty.type("getaddress SEAS\r");
    await pty.sees("SEAS is not here");
    pty.type("yes SEAS\r");
    await pty.sees("SEAS has not asked, or not within the last minute");
  });

  test("an answer that comes while something is typed leaves the cursor where it is", async () => {
    const pty = await columbiaIsIn();
    pty.type("online\rmess");
    await pty.until((lines) => lines.at(-2) === "nobody else is here" && lines.at(-1) === "> mess");
    pty.type("X\r");
    await pty.sees("there is no command messX");
  });

  test("Ctrl+Z stops it, with who started it, and fg goes on with the line as it was", async () => {
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

  test("Ctrl+Z where there is no shell to go back to disturbs nothing", async () => {
    const pty = await columbiaIsIn();
    pty.type("onl\x1aine\r");
    await pty.sees("nobody else is here");
  });

  test("Ctrl+C ends it with 1 also while the server is silent", async () => {
    const asked = Promise.withResolvers<void>();
    const silent = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => asked.resolve() } });
    const pty = openClient(["--user", "columbia"], { env: { HEARTLINE_PASSWORD: PASSWORD } }, silent.port);
    await asked.promise;
    pty.type("\x03");
    await pty.sees("not logged in");
    expect(await pty.exited).toBe(1);
    silent.stop(true);
  });

  test("Ctrl+C logs out and ends with 0", async () => {
    await other.login("SEAS", PASSWORD);
    const pty = await columbiaIsIn();
    pty.type("half a line\x03");
    expect(await pty.exited).toBe(0);
    expect((await other.online()).names).toEqual([]);
  });

  test.each(["SIGHUP", "SIGQUIT", "SIGTERM", "SIGINT"] as const)(
    "%s at the password's question leaves the terminal as it was",
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
    "%s logs a chatting client out",
    async (end) => {
      const seas = await server.login("SEAS");
      const pty = await columbiaIsIn();
      await seas.hears("joined columbia");
      if (end === "a closed window") pty.hangUp();
      else pty.kill(end);
      await seas.hears("left columbia logout");
      await pty.exited;
    },
  );

  test("logout ends with 0, and Ctrl+C before the login with 1", async () => {
    const pty = await columbiaIsIn();
    pty.type("logout\r");
    expect(await pty.exited).toBe(0);
    const early = openClient();
    await early.sees("Name:");
    early.type("\x03");
    expect(await early.exited).toBe(1);
  });

  test("the server's goodbye is told, and ends the program with 3", async () => {
    const pty = await columbiaIsIn();
    await other.login("columbia", PASSWORD);
    await pty.sees("You logged in somewhere else");
    expect(await pty.exited).toBe(3);
  });

  test("there are colours, but none with NO_COLOR", async () => {
    const colored = await columbiaIsIn();
    expect(colored.colored).toBe(true);
    colored.type("logout\r");
    await colored.exited;
    expect((await columbiaIsIn({ env: { NO_COLOR: "1" } })).colored).toBe(false);
  });
});

/** A client that reads its commands from a pipe. */
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
  test("commands are read from standard input, and answered in plain lines before it ends with 0", async () => {
    const { out, err, code } = await pipe(
      "message foobar hi\nonline\n\nmessage nobody x\nmessage columbia  two  spaces \n",
      ["127.0.0.1", String(server.port), "--user", "columbia"],
      PASSWORD,
    );
    expect(out).toBe(
      "stored for foobar, who is not here\nnobody else is here\ncolumbia: two  spaces \nsent to columbia\n",
    );
    expect(err).toBe("there is no user nobody\n");
    expect(code).toBe(0);
  });

  describe("a script's line", () => {
    /** What SEAS receives, a character for each byte, when columbia's script has these bytes. */
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

    test("may have bytes that are not UTF-8, which arrive as they are, also at the recipient's pipe", async () => {
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

    test("counts without an LF at the end of the input, and behind a byte order mark at its beginning", async () => {
      const { lines } = await received("\xef\xbb\xbfmessage SEAS one\nmessage SEAS two");
      expect(lines).toEqual(["message columbia one", "message columbia two"]);
    });

    test("that is too long is told in words, and the next ones go on", async () => {
      const long = "x".repeat(600_000);
      const { lines, err } = await received(
        `message SEAS ${long}\nmessage SEAS ${long.slice(0, 5000)}\nmessage SEAS short\n`,
      );
      expect(lines).toEqual(["message columbia short"]);
      expect(err).toBe("a line has more than 524288 bytes; it is skipped\nthat line is too long for this server\n");
    });
  });

  test("a script chats privately: it waits for the answer, and what it said arrives before it leaves", async () => {
    other.close();
    const answered = Promise.withResolvers<void>();
    const heard: string[] = [];
    other = new ChatClient({
      host: "127.0.0.1",
      port: server.port,
      listenPort: 0,
      onEvent: (event) => {
        if (event.kind === "asked") other.answer(event.user, event.user === "columbia").then(answered.resolve);
        if (event.kind === "private") heard.push(event.text);
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
    expect(heard).toEqual(texts);
    const refused = await pipe("getaddress SEAS\nprivate SEAS hi\n", [...at, "foobar"], PASSWORD);
    expect(refused.out).toContain("* SEAS does not agree to a private chat, or is not here\n");
    // The no may be there before the text, or find it waiting.
    expect(refused.err).toMatch(/^(SEAS did not agree|there is no private chat with SEAS)/);
  });

  test("a port for private chats that is taken is one clear line, and exit code 1", async () => {
    const at = ["127.0.0.1", String(server.port), "--user", "columbia", "--listen", String(server.port)];
    const { err, code } = await pipe("", at, PASSWORD);
    expect(err).toBe("heartline: cannot listen for private chats: EADDRINUSE; --listen chooses another port\n");
    expect(code).toBe(1);
    const both = await pipe("", [...at, "--no-listen"], PASSWORD);
    expect(both).toMatchObject({ err: expect.stringContaining("not both"), code: 2 });
  });

  test("all that waited is printed before it leaves", async () => {
    await other.login("SEAS", PASSWORD);
    const padding = "x".repeat(500); // It is more than the server feeds before something is confirmed.
    await Promise.all(
      Array.from({ length: 2000 }, (_, index) => other.message("columbia", `number ${index} ${padding}`)),
    );
    const { out, code } = await pipe("", ["127.0.0.1", String(server.port), "--user", "columbia"], PASSWORD);
    const numbers = [...(out.match(/number \d+/g) ?? [])];
    expect(numbers).toEqual(Array.from({ length: 2000 }, (_, index) => `number ${index}`));
    expect(code).toBe(0);
  });

  test("who does not get in hears why on stderr, and the exit code is 1", async () => {
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
      err: "heartline: cannot reach 127.0.0.1:1: nobody listens there\n",
      code: 1,
    });
  });

  test("a second client of the user on this machine takes the session over, with nothing lost and nothing twice", async () => {
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
    const say = async (): Promise<void> => {
      const text = `number ${texts.length};`;
      texts.push(text);
      await other.message("columbia", text);
    };
    for (let i = 0; i < 20; i++) await say();
    const second = pipe("online\n", at, PASSWORD);
    while (first.exitCode === null) await Promise.race([say(), first.exited]);
    expect(await first.exited).toBe(3);
    expect(await first.stderr.text()).toBe(
      "heartline: another client of yours on this machine has taken the session over\n",
    );
    const { out, code } = await second;
    expect(code).toBe(0);
    // The rest waits for the next one.
    const third = await pipe("", at, PASSWORD);
    const all = (await first.stdout.text()) + out + third.out;
    expect([...(all.match(/number \d+;/g) ?? [])]).toEqual(texts);
  });

  test("a folder for its state that cannot be used is one clear line, and nobody is logged in", async () => {
    await other.login("columbia", PASSWORD);
    state = join(process.execPath, "state");
    const { err, code } = await pipe("", ["127.0.0.1", String(server.port), "--user", "columbia"], PASSWORD);
    state = mkdtempSync(join(tmpdir(), "heartline-"));
    expect(err).toMatch(/^heartline: cannot use .* \(XDG_STATE_HOME\): .*\n$/);
    expect(code).toBe(1);
    expect((await other.online()).names).toEqual([]);
  });

  test("a reader who has had enough ends it without a word", async () => {
    const client = `${process.execPath} src/main.ts chat 127.0.0.1 ${server.port} --user columbia`;
    const program = Bun.spawn(["sh", "-c", `yes help | head -2000 | ${client} | head -1`], {
      env: { PATH: process.env.PATH, XDG_STATE_HOME: state, HEARTLINE_PASSWORD: PASSWORD },
      stdout: "pipe",
      stderr: "pipe",
    });
    expect(await program.stderr.text()).toBe("");
    expect(await program.stdout.text()).toContain("message <user> <text>");
  });

  test("an invalid command line gives one line, with exit code 2", async () => {
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
