import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Config } from "../../src/server/config.ts";
import { PASSWORD, type WireClient, WireServer } from "../support/wire.ts";
import { Random, seedFor } from "../support/random.ts";

const LOGIN = `login alice ${PASSWORD}`;
const LOGGED_IN = "ok <token> 35";
const running: WireServer[] = [];
const folders: string[] = [];

function start(overrides?: Partial<Config>, names?: readonly string[]): WireServer {
  const server = new WireServer(overrides, names);
  running.push(server);
  return server;
}

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "heartline-"));
  folders.push(path);
  return path;
}

afterEach(async () => {
  for (const server of running.splice(0)) {
    server.cut();
    await server.stop();
  }
  for (const path of folders.splice(0)) rmSync(path, { recursive: true });
});

/** Lines `> ` are said by alice, lines `< ` are what she hears; nothing else comes. */
async function dialogue(alice: WireClient, text: string): Promise<void> {
  for (const line of text.split("\n")) {
    const [, who, words] = /^\s*([<>]) ?(.*)$/.exec(line) ?? [];
    if (who === ">") alice.say(words!);
    if (who === "<") await alice.hears(words!);
  }
  await alice.asks("alive", "ok");
}

describe("each request works as its row says", () => {
  test("login, message, broadcast, online, block, unblock, alive and logout", async () => {
    const server = start();
    const [bob, carol] = (await server.online("bob", "carol")) as [WireClient, WireClient];
    const alice = await server.connect();
    await alice.asks(LOGIN, LOGGED_IN);
    await bob.hears("joined alice");
    await carol.hears("joined alice");
    await alice.asks("message bob hi there", "ok sent");
    await bob.hears("message alice hi there");
    await alice.asks("message dave hi", "ok stored");
    await alice.asks("broadcast hi all", "ok 2");
    await bob.hears("broadcast alice hi all");
    await carol.hears("broadcast alice hi all");
    await alice.asks("online", "ok bob carol");
    await alice.asks("block bob", "ok");
    await bob.asks("message alice hi", "err blocked");
    await bob.asks("online", "ok carol");
    await alice.asks("unblock bob", "ok");
    await bob.asks("message alice hi", "ok sent");
    await alice.hears("message bob hi");
    await alice.asks("alive", "ok");
    await alice.asks("alive 12", "ok");
    await alice.asks("logout", "ok");
    await alice.ends();
    await bob.hears("left alice logout");
    await carol.hears("left alice logout");
    const dave = await server.connect();
    await dave.asks(`login dave ${PASSWORD}`, LOGGED_IN);
    await dave.hears("stored alice <ms> hi");
    await dave.asks("alive", "ok");
  });

  test("a message to oneself comes, and so does its reply", async () => {
    const [alice] = (await start().online("alice")) as [WireClient];
    alice.say("message alice hi");
    expect([await alice.line(), await alice.line()].toSorted()).toEqual(["message alice hi", "ok sent"]);
  });

  test("a login option that belongs to private chat is accepted", async () => {
    const alice = await start().connect();
    await alice.asks(`${LOGIN} listen=5000`, LOGGED_IN);
  });

  test("every login gets a token that nobody had before", async () => {
    const server = start();
    const tokens = new Set<string>();
    for (let i = 0; i < 20; i++) {
      const alice = await server.connect();
      alice.say(LOGIN);
      tokens.add((await alice.line()).split(" ")[1]!);
      await alice.asks("logout", "ok");
    }
    expect(tokens.size).toBe(20);
  });
});

describe("errors come in the contract's order, and the connection lives on", () => {
  test("before login", async () => {
    const alice = await start().connect();
    await alice.asks("x".repeat(4096), "err line_too_long");
    await alice.asks("xyz", "err unknown_command");
    alice.say("", "message", "message bob", "message nobody hi", "block alice", "online x", "logout", "alive");
    expect(await alice.line()).toMatch(/^err bad_request/);
    for (let i = 0; i < 7; i++) await alice.hears("err not_logged_in");
    for (const bad of [
      "login",
      "login alice",
      `${LOGIN} nonsense`,
      `login 1.2.3.4 ${PASSWORD}`,
      `login  ${PASSWORD}`,
    ]) {
      alice.say(bad);
      expect(await alice.line()).toMatch(/^err bad_request/);
    }
    await alice.asks("login nobody x", "err unknown_user");
    await alice.asks("login alice x", "err wrong_password 2");
    await alice.asks(LOGIN, LOGGED_IN);
  });

  test("in a session", async () => {
    const server = start();
    const [alice, bob] = (await server.online("alice", "bob")) as [WireClient, WireClient];
    await bob.asks("block alice", "ok");
    await dialogue(
      alice,
      `> ${"x".repeat(5000)}
       < err line_too_long
       > ${LOGIN}
       < err already_logged_in
       > login
       < err already_logged_in
       > message nobody hi
       < err unknown_user
       > message bob hi
       < err blocked
       > block nobody
       < err unknown_user
       > block bob
       < ok
       > block bob
       < err already_blocked
       > unblock carol
       < err not_blocked
       > unblock nobody
       < err unknown_user`,
    );
    for (const bad of ["message bob", "message b*b hi", "broadcast", "online bob", "block", "alive x", "block alice"]) {
      alice.say(bad);
      expect(await alice.line()).toMatch(/^err bad_request/);
    }
    await bob.asks("alive", "ok");
  });

  test("three wrong passwords end in a lockout and a close, on other connections too, until the block time is over", async () => {
    const server = start({ blockMs: 300 });
    const first = await server.connect();
    await first.asks("login alice a", "err wrong_password 2");
    await first.asks("login alice b", "err wrong_password 1");
    await first.asks("login alice c", "err locked_out 1");
    await first.ends();
    const second = await server.connect();
    await second.asks(LOGIN, "err locked_out 1");
    await second.ends();
    const bob = await server.connect();
    await bob.asks(`login bob ${PASSWORD}`, LOGGED_IN);
    for (;;) {
      const again = await server.connect();
      again.say(LOGIN);
      const reply = await again.line();
      if (reply !== "err locked_out 1") {
        expect(reply).toMatch(/^ok \S+ 35$/);
        break;
      }
    }
  });

  test("of thirty parallel connections exactly three get a try", async () => {
    const server = start();
    const clients = await Promise.all(Array.from({ length: 30 }, () => server.connect()));
    for (const client of clients) client.say("login alice wrong");
    const replies = await Promise.all(clients.map((client) => client.line()));
    expect(replies.toSorted()).toEqual([
      ...Array(28).fill("err locked_out 60"),
      "err wrong_password 1",
      "err wrong_password 2",
    ]);
  });
});

describe("a line", () => {
  test("may end in CRLF, of which the CR is no part of the text", async () => {
    const [alice, bob] = (await start().online("alice", "bob")) as [WireClient, WireClient];
    alice.send("alive\r\nmessage bob hi\r\nmessage bob two\r\r\nonline\r\n\r\n");
    await alice.hears("ok", "ok sent", "ok sent", "ok bob", "err bad_request the line is empty");
    await bob.hears("message alice hi", "message alice two\r");
  });

  test("cut anywhere is the same line", async () => {
    const server = start();
    const barrier = await server.connect();
    const bytes = `${LOGIN}\r\nmessage 1.2.3 h\x00\xffi\nalive\n`;
    for (let cut = 1; cut < bytes.length; cut++) {
      const alice = await server.connect();
      alice.send(bytes.slice(0, cut));
      await barrier.asks("", "err bad_request the line is empty");
      alice.send(bytes.slice(cut));
      await alice.hears(LOGGED_IN, "ok stored", "ok");
      await alice.asks("logout", "ok");
    }
  });

  test("that comes byte by byte is the same line", async () => {
    const server = start();
    const barrier = await server.connect();
    const alice = await server.connect();
    for (const byte of `${LOGIN}\nalive\n`) {
      alice.send(byte);
      await barrier.asks("", "err bad_request the line is empty");
    }
    await alice.hears(LOGGED_IN, "ok");
  });

  test("may have exactly as many bytes as the buffer size, its end included", async () => {
    const server = start({ lineBytesMax: 64 });
    const [alice, bob] = (await server.online("alice", "bob")) as [WireClient, WireClient];
    const longest = `message bob ${"x".repeat(51)}`;
    await alice.asks(longest, "ok sent");
    await bob.hears(`message alice ${"x".repeat(51)}`);
    await alice.asks(`${longest}x`, "err line_too_long");
    alice.send(`${longest.slice(0, -1)}\r\n${longest}\r\nalive\n`);
    await alice.hears("ok sent", "err line_too_long", "ok");
    await bob.hears(`message alice ${"x".repeat(50)}`);
  });

  test("that is too long is skipped however long it is, answered once, and the next one works", async () => {
    const [alice] = (await start().online("alice")) as [WireClient];
    alice.send(Buffer.alloc(5 << 20, "x"));
    alice.send("\nalive\n");
    await alice.hears("err line_too_long", "ok");
  });

  test("that is too long is not answered before its end", async () => {
    const server = start();
    const barrier = await server.connect();
    const [alice] = (await server.online("alice")) as [WireClient];
    alice.send("x".repeat(10_000));
    await barrier.asks("", "err bad_request the line is empty");
    expect(alice.lines).toEqual([]);
    alice.send("\n");
    await alice.hears("err line_too_long");
  });

  test("of binary garbage is an error like another, and the connection lives on", async () => {
    const random = new Random(seedFor("binary garbage"));
    const garbage = Buffer.from(Array.from({ length: 100_000 }, () => random.below(256)));
    const server = start();
    const stranger = await server.connect();
    const [alice] = (await server.online("alice")) as [WireClient];
    for (const client of [stranger, alice]) {
      client.send(garbage);
      client.send("\n");
      for (let lines = garbage.filter((byte) => byte === 10).length + 1; lines > 0; lines--) {
        expect(await client.line()).toMatch(/^err (unknown_command|bad_request|line_too_long)/);
      }
    }
    await stranger.asks("login nobody x", "err unknown_user");
    await alice.asks("alive", "ok");
  });

  test("carries its text byte for byte: NUL, CR inside, 0xff, all there is but LF", async () => {
    const [alice, bob, carol] = (await start().online("alice", "bob", "carol")) as WireClient[];
    const everything = Array.from({ length: 256 }, (_, byte) => String.fromCharCode(byte)).join("");
    const text = ` \r ${everything.replace("\n", "")}  \x1b[31m end `;
    await alice!.asks(`message bob ${text}`, "ok sent");
    await bob!.hears(`message alice ${text}`);
    await alice!.asks(`broadcast ${text}`, "ok 2");
    await bob!.hears(`broadcast alice ${text}`);
    await carol!.hears(`broadcast alice ${text}`);
    await alice!.asks(`message dave ${text}`, "ok stored");
  });

  test("stored and fetched is byte for byte the same", async () => {
    const server = start();
    const [alice] = (await server.online("alice")) as [WireClient];
    await alice.asks("message bob \x00\xff\r \xc3\x28", "ok stored");
    const bob = await server.login("bob");
    await bob.hears("stored alice <ms> \x00\xff\r \xc3\x28");
  });
});

describe("pipelined requests", () => {
  test("in one packet with the login are answered in order", async () => {
    const alice = await start().connect();
    alice.say(
      "alive",
      "login nobody x",
      "login alice x",
      LOGIN,
      "online",
      "nonsense",
      LOGIN,
      "alive",
      "logout",
      "alive",
    );
    await alice.hears(
      "err not_logged_in",
      "err unknown_user",
      "err wrong_password 2",
      LOGGED_IN,
      "ok",
      "err unknown_command",
      "err already_logged_in",
      "ok",
      "ok",
    );
    await alice.ends();
  });

  test("are answered before the close also when a FIN follows them", async () => {
    const server = start();
    const [bob] = (await server.online("bob")) as [WireClient];
    const alice = await server.connect();
    alice.say(LOGIN, ...Array.from({ length: 1000 }, (_, i) => `message bob ${i}`), "online");
    await alice.finish();
    await alice.hears(LOGGED_IN, ...Array<string>(1000).fill("ok sent"), "ok bob");
    await alice.ends();
    await bob.hears("joined alice", ...Array.from({ length: 1000 }, (_, i) => `message alice ${i}`));
    await bob.hears("left alice disconnected");
  });

  test("without an end of the last line are answered, and that line is not", async () => {
    const alice = await start().connect();
    alice.send(`${LOGIN}\nonline\nalive`);
    await alice.finish();
    await alice.hears(LOGGED_IN, "ok");
    await alice.ends();
  });

  test("behind a FIN with a large answer all come, though the client reads late", async () => {
    const server = start();
    const alice = await server.connect();
    alice.pause();
    alice.say(LOGIN, ...Array.from({ length: 20_000 }, () => `message nobody ${"x".repeat(20)}`));
    await alice.finish();
    alice.resume();
    await alice.hears(LOGGED_IN, ...Array<string>(20_000).fill("err unknown_user"));
    await alice.ends();
  });

  test("100,000 of them, whose replies nobody reads for a while, are all answered in order in little memory", async () => {
    const server = start({}, ["alice", ...Array.from({ length: 30 }, (_, i) => `${"x".repeat(30)}${i}`)]);
    for (let i = 0; i < 30; i++) await server.login(`${"x".repeat(30)}${i}`);
    const others = await server.connect();
    const alice = await server.login("alice");
    alice.pause();
    const random = new Random(seedFor("100,000 requests"));
    const replies: Record<string, string> = {
      alive: "ok",
      online: `ok ${Array.from({ length: 30 }, (_, i) => `${"x".repeat(30)}${i}`)
        .toSorted()
        .join(" ")}`,
      "message nobody x": "err unknown_user",
      "unblock alice": "err not_blocked",
      nonsense: "err unknown_command",
    };
    const requests = Array.from({ length: 100_000 }, () => random.pick(Object.keys(replies)));
    Bun.gc(true);
    const before = process.memoryUsage.rss();
    alice.say(...requests);
    for (let i = 0; i < 200; i++) await others.asks("", "err bad_request the line is empty");
    const grown = process.memoryUsage.rss() - before;
    alice.resume();
    await alice.hears(...requests.map((request) => replies[request]!));
    expect(grown).toBeLessThan(16 << 20);
    await alice.asks("alive", "ok");
  });
});

describe("a peer that stops reading", () => {
  const TEXT = "x".repeat(1000);

  /** Alice writes to bob, who does not read, until she hears that he is gone, and a little more. */
  async function overflow(alice: WireClient): Promise<number> {
    let sent = 0;
    for (let left = false, more = 20; more > 0;) {
      await alice.asks("alive", "ok").catch(() => {});
      alice.say(`message bob ${sent++} ${TEXT}`);
      for (let reply = await alice.line(); !reply.startsWith("ok "); reply = await alice.line()) {
        expect(reply).toBe("left bob slow");
        left = true;
      }
      if (left) more--;
    }
    return sent;
  }

  /** The numbers of the messages among lines. */
  function numbers(lines: readonly string[]): number[] {
    return lines
      .flatMap((line) => /^(?:message alice|stored alice \d+) (\d+) x{1000}$/.exec(line)?.[1] ?? [])
      .map(Number);
  }

  test("ends as slow, and what it reads afterwards and finds at its next login is everything, once and in order", async () => {
    const server = start();
    const [alice, bob, carol] = (await server.online("alice", "bob", "carol")) as WireClient[];
    bob!.pause();
    const sent = await overflow(alice!);
    await carol!.hears("left bob slow");
    await carol!.asks("online", "ok alice");
    bob!.resume();
    const before = await bob!.rest();
    expect(before.pop()).toBe("joined carol");
  });

  test("keeps nothing from the others", async () => {
    const server = start();
    const [alice, bob, carol] = (await server.online("alice", "bob", "carol")) as WireClient[];
    bob!.pause();
    expect([alice, carol]).toBeDefined();
  });
});
