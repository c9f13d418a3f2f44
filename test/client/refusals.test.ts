import type { Socket } from "bun";
import { afterEach, describe, expect, jest, spyOn, test } from "bun:test";
import { ChatClient, type ChatClientOptions, ChatError, type ChatEvent, type ClientState } from "heartline/client";
import dns from "node:dns/promises";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Proxy } from "../system/chaos/fault-proxy.ts";
import { Backoff, REPLY_TIMEOUT_MS, retry } from "../../src/client/retry.ts";
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

/** A client, the texts that it delivered, and the positions that it saved. */
function newClient(options: Partial<ChatClientOptions> = {}) {
  const delivered: string[] = [];
  const positions: number[] = [];
  let changed = (): void => {};
  const until = async (condition: () => boolean): Promise<void> => {
    while (!condition()) await new Promise<void>((resolve) => (changed = resolve));
  };
  const client = new ChatClient({
    host: "127.0.0.1",
    port: server.port,
    onEvent: (event) => {
      if (event.kind === "lost" || event.kind === "back") return;
      delivered.push("text" in event ? event.text : event.kind);
      changed();
    },
    store: () => ({ load: () => null, save: ({ received }) => void positions.push(received) }),
    ...options,
  });
  clients.push(client);
  return { client, delivered, positions, until };
}

/** A server that sends one message on its first connection and closes it. `next` handles the later connections. */
function cutAfterOneMessage(...next: ((connection: FakeConnection) => void)[]): FakeServer {
  return new FakeServer((_line, connection) => {
    if (connection.number === 1) {
      connection.send(`ok ${TOKEN} 35\nmessage bob one\n`);
      connection.close();
    } else next[connection.number - 2]?.(connection);
  });
}

describe("the resume position is the same after a connection that sends", () => {
  const refusals: [name: string, refuse: (connection: FakeConnection) => void][] = [
    ["a line busy, which older servers send", ({ send }) => send("busy too many\n")],
    ["a line err busy", ({ send }) => send("err busy too many\n")],
    ["err internal", ({ send }) => send("err internal\n")],
    ["half a line", ({ send }) => send("ok 1")],
    ["nothing", () => {}],
    ["an event before a reply", ({ send }) => send("joined carol\nbroadcast carol hi\n")],
    ["the greeting of another protocol, and a line busy", ({ send }) => send("220 welcome\nbusy too many\n")],
  ];
  test.each(refusals)("%s and closes", async (_name, refuse) => {
    server = cutAfterOneMessage(
      (connection) => {
        refuse(connection);
        connection.close();
      },
      (connection) => connection.send("ok 0\nmessage bob two\n"),
    );
    const { client, delivered, positions, until } = newClient();
    await client.login("alice", PASSWORD);
    await until(() => delivered.length === 2);
    void client.logout().catch(() => {});
    await server.received(/^3: logout/);
    const resumes = server.lines.filter((line) => line.includes("resume"));
    expect(resumes).toEqual([`2: resume ${TOKEN} ${BYTES}`, `3: resume ${TOKEN} ${BYTES}`]);
    expect(delivered).toEqual(["one", "two"]);
    expect(server.lines).toContain(`3: logout ${2 * BYTES}`);
    expect(new Set([0, ...positions])).toEqual(new Set([0, BYTES, 2 * BYTES]));
  });
});

test("a reconnecting session waits for the end of a lockout, then logs in with its position", async () => {
  let logins = 0;
  server = new FakeServer((line, { number, send, close }) => {
    if (number === 1) {
      send(`ok ${TOKEN} 35\nmessage bob one\n`);
      return close();
    }
    if (line.startsWith("resume")) return send("err unknown_session\n");
    if (++logins > 1) return send(`ok ${"B".repeat(22)} 35\n`);
    send("err locked_out 1\n");
    close();
  });
  const { client } = newClient();
  await client.login("alice", PASSWORD);
  expect(await client.message("bob", "hi").catch((error: ChatError) => error.code)).toBe("unknown_outcome");
  expect(server.lines.filter((line) => line.includes("after="))).toEqual(
    [2, 3].map((number) => `${number}: login alice ${PASSWORD} resumable after=${TOKEN}:${BYTES}`),
  );
});

test.each(["", "goodbye slow\n"])(
  "a session ends as lost when each resume is accepted, followed by %j and closed",
  async (words) => {
    server = new FakeServer((_line, { number, send, close }) => {
      send(number === 1 ? `ok ${TOKEN} 35\nmessage bob one\n` : `ok 0\n${words}`);
      close();
    });
    const { client, delivered } = newClient({ giveUpMs: 100 });
    await client.login("alice", PASSWORD);
    expect(await client.ended).toBe("lost");
    expect(delivered[0]).toBe("one");
  },
);

test.each([
  ["err unknown_session replaced", "replaced"],
  ["err unknown_session kicked", "kicked"],
  ["err bad_request", "bad_request"],
  ["err line_too_long", "line_too_long"],
])("a resume with the reply %s ends the session as %s", async (reply, reason) => {
  server = cutAfterOneMessage(({ send }) => send(`${reply}\n`));
  const { client } = newClient();
  await client.login("alice", PASSWORD);
  expect(await client.ended).toBe(reason);
});

test.each(["replaced", "removed", "kicked you were warned"])(
  "a session does not reconnect after goodbye %s",
  async (goodbye) => {
    server = new FakeServer((_line, { send }) => send(`ok ${TOKEN} 35\ngoodbye ${goodbye}\n`));
    const { client } = newClient();
    await client.login("alice", PASSWORD);
    expect(await client.ended).toBe(goodbye.split(" ")[0]!);
  },
);

describe.each(["resumable", "callback"] as const)(
  "the login of a %s session rejects after the invalid reply",
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
      server = new FakeServer((_line, { send }) => send(`${reply}\n`));
      const { client } = newClient({ session });
      const refused = await client.login("alice", PASSWORD).catch((error: unknown) => error);
      expect(refused).toEqual(
        new ChatError("closed", "invalid reply to the login: there is no Heartline server at that port"),
      );
    });
  },
);

test("a request made in a handler while a later session begins is sent once", async () => {
  server = new FakeServer((line, { number, send, close }) => {
    if (line.startsWith("login")) send(`ok ${TOKEN} 35 received=0\n`);
    else if (line.startsWith("resume")) send("err unknown_session\n");
    else if (line.startsWith("getaddress")) close();
    else if (number > 1) send("ok sent\n");
  });
  const { promise: reply, resolve } = Promise.withResolvers<string>();
  // The later session begins with the event `denied`: the question of the earlier one has no answer.
  const onEvent = (event: ChatEvent): void => {
    if (event.kind === "denied") resolve(client.message("bob", "once"));
  };
  const { client } = newClient({ onEvent });
  await client.login("alice", PASSWORD);
  client.getAddress("bob").catch(() => {});
  expect(await reply).toBe("sent");
  await client.online();
  expect(server.lines.filter((line) => line.includes("message"))).toEqual(["2: message bob once"]);
});

test("a goodbye without a reason ends a plain session as unknown", async () => {
  server = new FakeServer((_line, { send }) => send(`ok ${TOKEN} 35\ngoodbye\n`));
  const { client } = newClient({ session: "plain" });
  await client.login("alice", PASSWORD);
  expect(await client.ended).toBe("unknown");
});

test("a first login rejects with busy and the detail when the connection is refused", async () => {
  server = new FakeServer(
    (_line, { number, send }) => number > 1 && send(`ok ${TOKEN} 35\n`),
    ({ number, send, close }) => {
      if (number > 1) return;
      send("err busy too many connections\n");
      close();
    },
  );
  const { client } = newClient();
  const refused = await client.login("alice", PASSWORD).catch((error: unknown) => error);
  expect(refused).toEqual(new ChatError("busy", "too many connections"));
  expect((await client.login("alice", PASSWORD)).token).toBe(TOKEN);
});

test.each(["resumable", "callback"] as const)(
  "a %s session finds the one server of several with the same name that is not busy",
  async (session) => {
    const addresses = ["127.0.0.1", "127.0.0.2"];
    const resolved = spyOn(dns, "lookup").mockImplementation((async () =>
      addresses.map((address) => ({ address, family: 4 }))) as never);
    const spare = (_line: string, { send, close }: FakeConnection): void => (send("err busy a spare\n"), close());
    server = new FakeServer(spare);
    const owner = new WireServer({ host: "127.0.0.2", port: server.port });
    try {
      const { client } = newClient({ host: "localhost", session });
      const attempt = (): Promise<unknown> => client.login("alice", PASSWORD);
      await retry(attempt, ["busy", "not_sent"], 20_000);
      expect(await client.message("bob", "hi")).toBe("stored");
      expect(server.lines.length).toBe(1);
    } finally {
      resolved.mockRestore();
      await owner.stop();
    }
  },
);

test.each(["resumable", "callback"] as const)(
  "the connection of a %s login without a reply is reset, so that the login cannot arrive after the next one",
  async (session) => {
    const [received, closed] = [Promise.withResolvers<void>(), Promise.withResolvers<Error | undefined>()];
    const socket = { data: () => received.resolve(), close: (_: Socket, error?: Error) => closed.resolve(error) };
    using listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket });
    jest.useFakeTimers();
    try {
      const client = new ChatClient({ host: "127.0.0.1", port: listener.port, session });
      const login = client.login("alice", PASSWORD).catch(({ code }: ChatError) => code);
      await received.promise;
      jest.advanceTimersByTime(REPLY_TIMEOUT_MS);
      expect(await login).toBe(session === "callback" ? "unknown_outcome" : "closed");
      expect(await closed.promise).toMatchObject({ code: "ECONNRESET" });
    } finally {
      jest.useRealTimers();
    }
  },
);

test("the deadline of a request of a callback session begins again with each event that comes before the reply", async () => {
  let reply = (): void => {};
  server = new FakeServer((line, { send, close }) => {
    reply = () => send("ok sent\n");
    if (!line.startsWith("login")) return send("waiting\n");
    send(`ok ${TOKEN} 35 secret=${"S".repeat(22)}\n`);
    setImmediate(() => call(Number(/callback=(\d+)/.exec(line)![1])));
    close();
  });
  const { client } = newClient({ session: "callback" });
  await client.login("alice", PASSWORD);
  const { setTimeout: original } = globalThis;
  const restarted = Promise.withResolvers<void>();
  const spy = spyOn(globalThis, "setTimeout").mockImplementation(((act: () => void, ms: number) => {
    const timer = original(act, ms);
    if (ms === REPLY_TIMEOUT_MS) timer.refresh = () => (restarted.resolve(), timer);
    return timer;
  }) as typeof setTimeout);
  try {
    const outcome = client.message("bob", "hi");
    await restarted.promise;
    reply();
    expect(await outcome).toBe("sent");
  } finally {
    spy.mockRestore();
  }
});

test("a session that meets only busy servers after a loss ends with their words", async () => {
  server = new FakeServer(
    (_line, { send, close }) => {
      send(`ok ${TOKEN} 35\n`);
      close();
    },
    ({ number, send, close }) => {
      if (number === 1) return;
      send("err busy this server is a spare\n");
      close();
    },
  );
  const { client } = newClient({ giveUpMs: 100 });
  await client.login("alice", PASSWORD);
  expect([await client.ended, client.endDetail]).toEqual(["busy", "this server is a spare"]);
});

test.each(["busy too many\n", "err busy too many\n"])(
  "a request of a callback session is repeated when its connection is refused with %j",
  async (refusal) => {
    let refused = false;
    server = new FakeServer(
      (line, { send, close }) => {
        if (line.startsWith("login")) {
          const port = Number(/callback=(\d+)/.exec(line)![1]);
          send(`ok ${TOKEN} 35 secret=${"S".repeat(22)}\n`);
          setImmediate(() => call(port));
        } else send(line.includes("logout") ? "ok\n" : "ok sent\n");
        close();
      },
      ({ number, send, close }) => {
        if (number === 1 || refused) return;
        refused = true;
        send(refusal);
        close();
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

describe("a script exits with 3 and prints the reason on stderr when its session ends after", () => {
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
    server = cutAfterOneMessage(({ send }) => send(`${reply}\n`));
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

test("a callback script exits with 1 when the server closes the connection without a reply to the login", async () => {
  server = new FakeServer((_line, { close }) => close());
  const state = mkdtempSync(join(tmpdir(), "heartline-"));
  const env = { HEARTLINE_PASSWORD: PASSWORD, XDG_STATE_HOME: state };
  const args = ["src/main.ts", "chat", "127.0.0.1", String(server.port), "--user", "alice", "--callback"];
  const { err, code } = await runWith({ env, input: "online\n" }, ...args);
  expect(err).toBe("heartline: the server closed the connection; if it speaks TLS, try --tls\n");
  expect(code).toBe(1);
  rmSync(state, { recursive: true });
});

test("requests of an earlier run stay saved until the server has called the new callback session", async () => {
  server = new FakeServer((line, { send }) => line.startsWith("login") && send(`ok ${TOKEN} 35 secret=s\n`));
  const unanswered = [{ line: "message bob hi", position: 15 }];
  let state: ClientState = { token: "B".repeat(22), received: 0, unanswered };
  const { promise: saved, resolve } = Promise.withResolvers<void>();
  const save = (newer: ClientState): void => {
    state = newer;
    resolve();
  };
  const { client } = newClient({ session: "callback", store: () => ({ load: () => state, save }) });
  client.login("alice", PASSWORD).catch(() => {});
  await saved;
  client.close();
  expect(state).toEqual({ token: TOKEN, received: 0, unanswered, read: 0 });
});

test("a callback client that is closed before the reply to its login stays closed", async () => {
  const { promise: asked, resolve } = Promise.withResolvers<FakeConnection>();
  server = new FakeServer((line, connection) => line.startsWith("login") && resolve(connection));
  const { client } = newClient({ session: "callback" });
  const refused = client.login("alice", PASSWORD).catch((error: ChatError) => error.code);
  const { send } = await asked;
  client.close();
  send(`ok ${TOKEN} 35 secret=s\n`);
  expect(await refused).toBe("closed");
});

test("a callback session logs in again when the reply to a later login is invalid", async () => {
  const logins: string[] = [];
  server = new FakeServer((line, { send, close }) => {
    const port = Number(/callback=(\d+)/.exec(line)?.[1]);
    if (port > 0 && logins.push(line) !== 2) {
      send(`ok ${TOKEN} 35 secret=${"S".repeat(22)}\n`);
      setImmediate(() => call(port));
    } else send(port > 0 ? "ok\n" : logins.length === 1 ? "err unknown_session\n" : "ok sent\n");
    close();
  });
  const { client } = newClient({ session: "callback" });
  await client.login("alice", PASSWORD);
  expect(await client.message("bob", "hi")).toBe("sent");
  expect(logins).toHaveLength(3);
});

test("a callback session that the server ends repeatedly logs in with growing delays", async () => {
  let logins = 0;
  const { promise: fourth, resolve } = Promise.withResolvers<void>();
  server = new FakeServer((line, { send, close }) => {
    const port = Number(/callback=(\d+)/.exec(line)?.[1]);
    send(port > 0 ? `ok ${TOKEN} 35 secret=${"S".repeat(22)}\n` : "ok\n");
    close();
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

test("while a server was just lost the client tries at least every two seconds", async () => {
  const backoff = new Backoff();
  const delays: number[] = [];
  const timer = spyOn(globalThis, "setTimeout").mockImplementation(((act: () => void, ms: number) => {
    delays.push(ms);
    queueMicrotask(act);
  }) as never);
  for (let i = 0; i < 12; i++) await backoff.next();
  timer.mockRestore();
  expect(Math.max(...delays)).toBeLessThanOrEqual(2_000);
  expect(Math.max(...delays)).toBeGreaterThan(1_000);
  expect(delays[0]).toBeLessThanOrEqual(200);
});

test("a callback session ends as lost when the server ends each new session for giveUpMs", async () => {
  server = new FakeServer((line, { send, close }) => {
    const port = Number(/callback=(\d+)/.exec(line)?.[1]);
    send(port > 0 ? `ok ${TOKEN} 35 secret=${"S".repeat(22)}\n` : "ok\n");
    close();
    if (port > 0) setImmediate(() => call(port, "goodbye slow\n"));
  });
  const { client } = newClient({ session: "callback", giveUpMs: 100 });
  await client.login("alice", PASSWORD);
  expect(await client.ended).toBe("lost");
});

test("sixty sessions of one address all resume after a cut, with its connection rate limit", async () => {
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
