import type { Socket } from "bun";
import { afterEach, describe, expect, spyOn, test } from "bun:test";
import { ChatClient, type ChatClientOptions, ChatError } from "heartline/client";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Proxy } from "../system/chaos/fault-proxy.ts";
import { Backoff, retry } from "../../src/client/request.ts";
import { type FakeConnection, FakeServer } from "../support/fake-server.ts";
import { runWith } from "../support/process.ts";
import { PASSWORD, WireServer } from "../support/wire.ts";

const TOKEN = "A".repeat(22);
const BYTES = "message bob one\n".length;
let server: FakeServer;
const clients: ChatClient[] = [];

afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  server?.stop();
});

/** A client, what it was told, and what it keeps. */
function newClient(options: Partial<ChatClientOptions> = {}) {
  const told: string[] = [];
  const positions: number[] = [];
  let changed = (): void => {};
  const until = async (condition: () => boolean): Promise<void> => {
    while (!condition()) await new Promise<void>((resolve) => (changed = resolve));
  };
  const client = new ChatClient({
    host: "127.0.0.1",
    port: server.port,
    onEvent: (event) => {
      told.push("text" in event ? event.text : event.kind);
      changed();
    },
    store: () => ({ load: () => null, save: ({ received }) => void positions.push(received) }),
    ...options,
  });
  clients.push(client);
  return { client, told, positions, until };
}

/** A server whose first session gets one message and is cut; then its connections do as told, one after the other. */
function cutAfterOneMessage(...next: ((connection: FakeConnection) => void)[]): FakeServer {
  return new FakeServer((_line, connection) => {
    if (connection.number === 1) {
      connection.say(`ok ${TOKEN} 35\nmessage bob one\n`);
      connection.hangUp();
    } else next[connection.number - 2]?.(connection);
  });
}

describe("the resume position is unchanged after", () => {
  const refusals: [name: string, refuse: (connection: FakeConnection) => void][] = [
    ["a line busy, as older servers say it", ({ say }) => say("busy too many\n")],
    ["a line err busy", ({ say }) => say("err busy too many\n")],
    ["err internal", ({ say }) => say("err internal\n")],
    ["half a line", ({ say }) => say("ok 1")],
    ["no word at all", () => {}],
    ["an event before a reply", ({ say }) => say("joined carol\nbroadcast carol hi\n")],
    ["a greeting of something else, and a line busy", ({ say }) => say("220 welcome\nbusy too many\n")],
  ];
  test.each(refusals)("%s and a close", async (_name, refuse) => {
    server = cutAfterOneMessage(
      (connection) => {
        refuse(connection);
        connection.hangUp();
      },
      (connection) => connection.say("ok 0\nmessage bob two\n"),
    );
    const { client, told, positions, until } = newClient();
    await client.login("alice", PASSWORD);
    await until(() => told.length === 2);
    void client.logout().catch(() => {});
    await server.hears(/^3: logout/);
    const resumes = server.lines.filter((line) => line.includes("resume"));
    expect(resumes).toEqual([`2: resume ${TOKEN} ${BYTES}`, `3: resume ${TOKEN} ${BYTES}`]);
    expect(told).toEqual(["one", "two"]);
    expect(server.lines).toContain(`3: logout ${2 * BYTES}`);
    expect(new Set([0, ...positions])).toEqual(new Set([0, BYTES, 2 * BYTES]));
  });
});

test("a reconnecting session waits for the end of a lockout, then logs in with its position", async () => {
  let logins = 0;
  server = new FakeServer((line, { number, say, hangUp }) => {
    if (number === 1) {
      say(`ok ${TOKEN} 35\nmessage bob one\n`);
      return hangUp();
    }
    if (line.startsWith("resume")) return say("err unknown_session\n");
    if (++logins > 1) return say(`ok ${"B".repeat(22)} 35\n`);
    say("err locked_out 1\n");
    hangUp();
  });
  const { client } = newClient();
  await client.login("alice", PASSWORD);
  expect(await client.message("bob", "hi").catch((error: ChatError) => error.code)).toBe("unknown_outcome");
  expect(server.lines.filter((line) => line.includes("after="))).toEqual(
    [2, 3].map((number) => `${number}: login alice ${PASSWORD} resumable after=${TOKEN}:${BYTES}`),
  );
});

test.each(["", "goodbye slow\n"])(
  "a server that accepts each resume, says %j and closes is given up as one that is away",
  async (words) => {
    server = new FakeServer((_line, { number, say, hangUp }) => {
      say(number === 1 ? `ok ${TOKEN} 35\nmessage bob one\n` : `ok 0\n${words}`);
      hangUp();
    });
    const { client, told } = newClient({ giveUpMs: 100 });
    await client.login("alice", PASSWORD);
    expect(await client.ended).toBe("lost");
    expect(told[0]).toBe("one");
  },
);

test.each([
  ["err unknown_session replaced", "replaced"],
  ["err unknown_session kicked", "kicked"],
  ["err bad_request", "bad_request"],
  ["err line_too_long", "line_too_long"],
])("a resume that is answered %s ends the session as %s", async (reply, reason) => {
  server = cutAfterOneMessage(({ say }) => say(`${reply}\n`));
  const { client } = newClient();
  await client.login("alice", PASSWORD);
  expect(await client.ended).toBe(reason);
});

test.each(["replaced", "removed", "kicked you were warned"])(
  "after goodbye %s a session does not come back by itself",
  async (goodbye) => {
    server = new FakeServer((_line, { say }) => say(`ok ${TOKEN} 35\ngoodbye ${goodbye}\n`));
    const { client } = newClient();
    await client.login("alice", PASSWORD);
    expect(await client.ended).toBe(goodbye.split(" ")[0]!);
  },
);

describe.each(["resumable", "callback"] as const)(
  "the login of a %s session rejects when the server answers",
  (session) => {
    const replies = [
      "ok",
      "ok short 35",
      `ok ${TOKEN}`,
      `ok ${TOKEN} soon`,
      `ok ${TOKEN} 0`,
      `ok ${TOKEN} -5`,
      `ok ${TOKEN} 1e99`,
    ];
    test.each(replies)("%s", async (reply) => {
      server = new FakeServer((_line, { say }) => say(`${reply}\n`));
      const { client } = newClient({ session });
      const refused = await client.login("alice", PASSWORD).catch((error: unknown) => error);
      expect(refused).toEqual(new ChatError("closed", "the answer to the login is not one of a Heartline server"));
    });
  },
);

test("a goodbye without a reason ends a plain session as unknown", async () => {
  server = new FakeServer((_line, { say }) => say(`ok ${TOKEN} 35\ngoodbye\n`));
  const { client } = newClient({ session: "plain" });
  await client.login("alice", PASSWORD);
  expect(await client.ended).toBe("unknown");
});

test("a first login that is refused at the door rejects with busy and the words of the server", async () => {
  server = new FakeServer(
    (_line, { number, say }) => number > 1 && say(`ok ${TOKEN} 35\n`),
    ({ number, say, hangUp }) => {
      if (number > 1) return;
      say("err busy too many connections\n");
      hangUp();
    },
  );
  const { client } = newClient();
  const refused = await client.login("alice", PASSWORD).catch((error: unknown) => error);
  expect(refused).toEqual(new ChatError("busy", "too many connections"));
  expect((await client.login("alice", PASSWORD)).token).toBe(TOKEN);
});

test.each(["busy too many\n", "err busy too many\n"])(
  "a request of a callback session that is refused at the door with %j is retried",
  async (refusal) => {
    let refused = false;
    server = new FakeServer(
      (line, { say, hangUp }) => {
        if (line.startsWith("login")) {
          const port = Number(/callback=(\d+)/.exec(line)![1]);
          say(`ok ${TOKEN} 35 secret=${"S".repeat(22)}\n`);
          setImmediate(() => call(port));
        } else say(line.includes("logout") ? "ok\n" : "ok sent\n");
        hangUp();
      },
      ({ number, say, hangUp }) => {
        if (number === 1 || refused) return;
        refused = true;
        say(refusal);
        hangUp();
      },
    );
    const { client } = newClient({ session: "callback" });
    await client.login("alice", PASSWORD);
    expect(await client.message("bob", "hi")).toBe("sent");
    expect(refused).toBe(true);
  },
);

/** Calls a callback client as the server does, to deliver `text`. */
function call(port: number, text = ""): void {
  const open = (socket: Socket): void => void socket.write(`callback ${"S".repeat(22)} 0 ${text.length}\n`);
  const data = (socket: Socket, chunk: Buffer): void => void (chunk.includes("ready") && socket.write(text));
  void Bun.connect({ hostname: "127.0.0.1", port, socket: { open, data } });
}

describe("a script whose session ends exits with 3 and a reason on stderr after", () => {
  const endings: [reply: string, words: string][] = [
    ["err bad_request", "did not accept the position at which the session should continue"],
    ["err unknown_session replaced", "you logged in somewhere else"],
    ["err unknown_session kicked", "the operator disconnected this user"],
    ["err banned 60", "this user is banned"],
    ["err unknown_user", "no longer knows this user"],
    ["err odd because", "odd"],
    ["err ", "refused the request without a reason"],
  ];
  test.each(endings)("%s", async (reply, words) => {
    server = cutAfterOneMessage(({ say }) => say(`${reply}\n`));
    const state = mkdtempSync(join(tmpdir(), "heartline-"));
    const env = { HEARTLINE_PASSWORD: PASSWORD, XDG_STATE_HOME: state };
    const args = ["src/main.ts", "chat", "127.0.0.1", String(server.port), "--user", "alice"];
    const { err, code } = await runWith({ env, input: "online\n" }, ...args);
    expect(err).toContain(words);
    expect(err).toMatch(/heartline: the session has ended: .*\n$/);
    expect(code).toBe(3);
    rmSync(state, { recursive: true });
  });
});

test("a callback script whose login is not answered exits with 1 and says that the server closed the connection", async () => {
  server = new FakeServer((_line, { hangUp }) => hangUp());
  const state = mkdtempSync(join(tmpdir(), "heartline-"));
  const env = { HEARTLINE_PASSWORD: PASSWORD, XDG_STATE_HOME: state };
  const args = ["src/main.ts", "chat", "127.0.0.1", String(server.port), "--user", "alice", "--callback"];
  const { err, code } = await runWith({ env, input: "online\n" }, ...args);
  expect(err).toBe("heartline: the server closed the connection; if it speaks TLS, try --tls\n");
  expect(code).toBe(1);
  rmSync(state, { recursive: true });
});

test("a callback session whose new login has an unreadable reply logs in again", async () => {
  const logins: string[] = [];
  server = new FakeServer((line, { say, hangUp }) => {
    const port = Number(/callback=(\d+)/.exec(line)?.[1]);
    if (port > 0 && logins.push(line) !== 2) {
      say(`ok ${TOKEN} 35 secret=${"S".repeat(22)}\n`);
      setImmediate(() => call(port));
    } else say(port > 0 ? "ok\n" : logins.length === 1 ? "err unknown_session\n" : "ok sent\n");
    hangUp();
  });
  const { client } = newClient({ session: "callback" });
  await client.login("alice", PASSWORD);
  expect(await client.message("bob", "hi")).toBe("sent");
  expect(logins).toHaveLength(3);
});

test("a callback session that is ended again and again logs in after growing pauses", async () => {
  let logins = 0;
  const { promise: fourth, resolve } = Promise.withResolvers<void>();
  server = new FakeServer((line, { say, hangUp }) => {
    const port = Number(/callback=(\d+)/.exec(line)?.[1]);
    say(port > 0 ? `ok ${TOKEN} 35 secret=${"S".repeat(22)}\n` : "ok\n");
    hangUp();
    if (++logins === 4) resolve();
    else setImmediate(() => call(port, "goodbye slow\n"));
  });
  const next = spyOn(Backoff.prototype, "next");
  const { client } = newClient({ session: "callback" });
  void client.login("alice", PASSWORD).catch(() => {});
  await fourth;
  expect(next).toHaveBeenCalledTimes(3);
  expect(new Set(next.mock.contexts).size).toBe(1);
  next.mockRestore();
});

test("sixty sessions behind one address all resume after a cut, in spite of its connection rate limit", async () => {
  const names = Array.from({ length: 60 }, (_, index) => `user${index}`);
  const wire = new WireServer({ limits: { limitsLoopback: true, connectionsPerSecondMax: 30 } }, names);
  const proxy = new Proxy(wire.port);
  let back = 0;
  const { promise: allBack, resolve } = Promise.withResolvers<void>();
  const onBack = (): void => {
    if (++back === names.length) resolve();
  };
  const members = names.map(() => newClient({ port: proxy.port, onBack, store: undefined }).client);
  const logIn = (client: ChatClient, index: number): Promise<unknown> =>
    retry(() => client.login(names[index]!, PASSWORD), ["busy"], Number.POSITIVE_INFINITY);
  await Promise.all(members.map(logIn));
  proxy.cut();
  await allBack;
  expect((await members[0]!.online()).names).toHaveLength(59);
  proxy.stop();
  await wire.stop();
}, 30_000);
