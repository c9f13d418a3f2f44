import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChatClient } from "heartline/client";
import { PASSWORD, WireServer } from "../support/wire.ts";

const USERS = ["columbia", "SEAS", "foobar"];
let server: WireServer;
let state: string;
let other: ChatClient;

beforeEach(async () => {
  state = mkdtempSync(join(tmpdir(), "heartline-"));
  server = new WireServer({}, USERS);
  await server.ready();
  other = new ChatClient({ host: "127.0.0.1", port: server.port });
});

afterEach(async () => {
  other.close();
  await server.stop();
  rmSync(state, { recursive: true });
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
  test("commands are read from standard input, results are plain lines, and the exit code is 4 when one was refused", async () => {
    const { out, err, code } = await pipe(
      "message foobar hi\nonline\n\nmessage nobody x\nmessage columbia  two  spaces \n",
      ["127.0.0.1", String(server.port), "--user", "columbia"],
      PASSWORD,
    );
    expect(out).toBe(
      "stored for foobar; it is delivered when foobar is here\nnobody else is here\ncolumbia: two  spaces \nsent to columbia\n",
    );
    expect(err).toBe("there is no user nobody\n");
    expect(code).toBe(4);
    const accepted = await pipe("online\n", ["127.0.0.1", String(server.port), "--user", "columbia"], PASSWORD);
    expect(accepted).toEqual({ out: "nobody else is here\n", err: "", code: 0 });
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

  test("with --json each event and each reply is one object, and nothing else is on standard output", async () => {
    await other.login("SEAS", PASSWORD);
    const seen = pipe(
      "message SEAS hi\nmessage nobody x\n\ndance\nonline\nbroadcast hi\nhelp\nmessage columbia me\nlogout\n",
      ["127.0.0.1", String(server.port), "--user", "columbia", "--json"],
      PASSWORD,
    );
    const { out, err, code } = await seen;
    const objects = out
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(objects.filter(({ event }) => event !== undefined)).toEqual([
      { event: "message", from: "columbia", text: "me" },
    ]);
    expect(objects.filter(({ reply }) => reply !== undefined)).toMatchObject([
      { reply: "ok", code: "sent", request: 1 },
      { reply: "err", code: "unknown_user", request: 2 },
      { reply: "err", code: "unknown_command", request: 3 },
      { reply: "ok", users: ["SEAS"], more: 0, request: 4 },
      { reply: "ok", count: 1, request: 5 },
      { reply: "ok", request: 6 },
      { reply: "ok", code: "sent", request: 7 },
      { reply: "ok", request: 8 },
    ]);
    expect({ err, code }).toEqual({ err: "", code: 4 });
  });

  test("an end of the session by another client gives exit code 3, also after a refused command", async () => {
    const program = Bun.spawn(
      [process.execPath, "src/main.ts", "chat", `columbia@127.0.0.1:${server.port}`, "--json"],
      { env: { XDG_STATE_HOME: state, HEARTLINE_PASSWORD: PASSWORD }, stdin: "pipe", stdout: "pipe", stderr: "pipe" },
    );
    program.stdin.write("dance\n");
    program.stdin.flush();
    const reader = program.stdout.getReader();
    expect(Buffer.from((await reader.read()).value!).toString()).toContain("unknown_command");
    await other.login("columbia", PASSWORD);
    expect(await program.exited).toBe(3);
    expect(Buffer.from((await reader.read()).value!).toString()).toBe('{"event":"goodbye","reason":"replaced"}\n');
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
    // The server may delay a message (requestsPerSecondMax): the last one, too, is accepted before the third client.
    while (first.exitCode === null) await send();
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

  test("a reader that closes the pipe logs the user out and ends the client, without a message", async () => {
    const seas = await server.login("SEAS");
    const client = `${process.execPath} src/main.ts chat 127.0.0.1 ${server.port} --user columbia`;
    const program = Bun.spawn(["sh", "-c", `yes help | head -2000 | ${client} | head -1`], {
      env: { PATH: process.env.PATH, XDG_STATE_HOME: state, HEARTLINE_PASSWORD: PASSWORD },
      stdout: "pipe",
      stderr: "pipe",
    });
    expect(await program.stderr.text()).toBe("");
    expect(await program.stdout.text()).toContain("message <user> <text>");
    await seas.expectLines("joined columbia", "left columbia logout");
  });

  test("an invalid command line is reported in one line, with exit code 2", async () => {
    for (const args of [
      [],
      ["127.0.0.1:0"],
      ["bob@127.0.0.1", "--user", "alice"],
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
