import { afterEach, beforeEach, describe, expect, jest, setSystemTime, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChatClient, type ChatClientOptions, ChatError, type ChatEvent, type ClientState } from "heartline/client";
import { DeliveryQueue } from "../../src/client/delivery.ts";
import { Heartbeat } from "../../src/client/heartbeat.ts";
import { retry } from "../../src/client/retry.ts";
import { UNDELIVERED_BYTES_MAX } from "../../src/limits.ts";
import { type FakeConnection, FakeServer } from "../support/fake-server.ts";
import { PASSWORD, WireServer } from "../support/wire.ts";

const [TOKEN, NEXT] = ["A".repeat(22), "B".repeat(22)];
const clients: ChatClient[] = [];
let fake: FakeServer | null = null;

afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  fake?.stop();
  fake = null;
});

/** A client whose event handlers finish when the test calls `take` or `refuse`, and the state that it saved. */
function newClient(options: Partial<ChatClientOptions> = {}) {
  const events: { text: string; take: () => void; refuse: (error: Error) => void }[] = [];
  let changed = (): void => {};
  let state: ClientState | null = null;
  const client = new ChatClient({
    host: "127.0.0.1",
    port: fake?.port ?? 0,
    onEvent: (event: ChatEvent) => {
      if (event.kind === "lost" || event.kind === "back") return;
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      events.push({ text: "text" in event ? event.text : event.kind, take: resolve, refuse: reject });
      changed();
      return promise;
    },
    store: () => ({ load: () => state, save: (saved) => void (state = structuredClone(saved)) }),
    ...options,
  });
  clients.push(client);
  const until = async (condition: () => boolean): Promise<void> => {
    while (!condition()) await new Promise<void>((resolve) => (changed = resolve));
  };
  const texts = (): string[] => events.map(({ text }) => text);
  return { client, events, texts, until, state: () => state };
}

/** A server that sends `lines` after a login, and `ok` to any line for which `more` returns false. */
function sessionWith(lines: string, more: (line: string, connection: FakeConnection) => boolean = () => false) {
  return new FakeServer((line, connection) => {
    if (more(line, connection)) return;
    connection.send(
      line.startsWith("login") ? `ok ${TOKEN} 35\n${lines}` : line.startsWith("resume") ? "ok 0\n" : "ok\n",
    );
  });
}

const THREE = ["one", "two", "three"].map((text) => `message bob ${text}\n`);
const AFTER = THREE.map((_, index) => THREE.slice(0, index + 1).join("").length);

describe("event handlers that return promises:", () => {
  test("the acknowledged and the saved position stop before the first event whose promise is pending", async () => {
    fake = sessionWith(THREE.join(""));
    const { client, events, until, state } = newClient();
    await client.login("alice", PASSWORD);
    await until(() => events.length === 3);
    events[1]!.take();
    await new Promise((resolve) => setImmediate(resolve));
    await client.online();
    expect(state()!.received).toBe(0);
    events[0]!.take();
    while (state()!.received < AFTER[1]!) await new Promise((resolve) => setImmediate(resolve));
    client.logout().catch(() => {});
    expect(await fake.received(/logout/)).toBe(`1: logout ${AFTER[1]}`);
    expect(state()!.received).toBe(AFTER[1]!);
  });

  test("events between a logout and its reply are not delivered, and come again at the next login", async () => {
    fake = sessionWith(THREE[0]!, (line, { send }) => {
      if (!line.startsWith("logout")) return false;
      send(`${THREE[1]}${THREE[2]}ok\n`);
      return true;
    });
    const { client, events, texts, until, state } = newClient();
    await client.login("alice", PASSWORD);
    await until(() => events.length === 1);
    const loggedOut = client.logout();
    await fake.received(/^1: logout 0$/);
    await loggedOut;
    events[0]!.take();
    expect(await client.ended).toBe("logout");
    expect(texts()).toEqual(["one"]);
    expect(state()!.received).toBe(AFTER[0]!);
  });

  test("events between the logout of a plain session and its reply are delivered", async () => {
    fake = sessionWith("", (line, { send }) => {
      if (line === "logout") send(`${THREE[0]}ok\n`);
      return line === "logout";
    });
    const kinds: string[] = [];
    const onEvent = (event: ChatEvent): void => void kinds.push(event.kind);
    const { client } = newClient({ session: "plain", onEvent });
    await client.login("alice", PASSWORD);
    await client.logout();
    expect(kinds).toEqual(["message"]);
  });

  test("after a reconnect pending events are skipped when they come again, and new ones are delivered", async () => {
    fake = new FakeServer((line, { number, send, close }) => {
      if (line.startsWith("login")) send(`ok ${TOKEN} 35\n${THREE[0]}${THREE[1]}`);
      else if (number === 1) close();
      else send(line.startsWith("resume") ? `ok 0\n${THREE.join("")}` : "ok\n");
    });
    const { client, events, texts, until } = newClient();
    await client.login("alice", PASSWORD);
    await until(() => events.length === 2);
    client.online().catch(() => {});
    await until(() => events.length === 3);
    expect(texts()).toEqual(["one", "two", "three"]);
    expect(await fake.received(/resume/)).toBe(`2: resume ${TOKEN} 0`);
    for (const { take } of events) take();
  });

  test("after a reconnect the ack does not pass the lines that arrived again on the new connection", async () => {
    fake = new FakeServer((line, { number, send, close }) => {
      if (line.startsWith("login")) send(`ok ${TOKEN} 35\n${THREE[0]}${THREE[1]}`);
      else if (number === 1) close();
      else if (line.startsWith("resume")) send(`ok 0\n${THREE[0]}`);
    });
    const { client, events, until, state } = newClient();
    await client.login("alice", PASSWORD);
    await until(() => events.length === 2);
    client.online().catch(() => {});
    await fake.received(/2: online/);
    for (const { take } of events) take();
    while (state()!.received < AFTER[1]!) await new Promise((resolve) => setImmediate(resolve));
    client.logout().catch(() => {});
    expect(await fake.received(/logout/)).toBe(`2: logout ${AFTER[0]}`);
  });

  test("a new login waits until pending events are delivered, so none of them is delivered twice", async () => {
    const asked = Promise.withResolvers<void>();
    fake = new FakeServer((line, { number, send, close }) => {
      if (line.startsWith("login")) send(`ok ${number === 1 ? TOKEN : NEXT} 35\n${number === 1 ? THREE[0] : ""}`);
      else if (number === 1) return;
      else if (line.startsWith("resume")) send("err unknown_session\n");
      else send("ok\n");
      if (line.startsWith("resume")) asked.resolve();
      if (number === 1) setImmediate(close);
    });
    const { client, events, until } = newClient();
    await client.login("alice", PASSWORD);
    await until(() => events.length === 1);
    await asked.promise;
    for (let turns = 0; turns < 300; turns++) await new Promise((resolve) => setImmediate(resolve));
    expect(fake.lines.filter((line) => line.includes("login"))).toHaveLength(1);
    events[0]!.take();
    const login = await fake.received(/after=/);
    expect(login).toEndWith(`login alice ${PASSWORD} resumable after=${TOKEN}:${AFTER[0]}`);
  });

  test("a handler that rejects ends the session as undelivered, before its event is acknowledged", async () => {
    fake = sessionWith(THREE.join(""));
    const warned = Promise.withResolvers<unknown>();
    process.once("warning", warned.resolve);
    const { client, events, until, state } = newClient();
    await client.login("alice", PASSWORD);
    await until(() => events.length === 3);
    events[0]!.take();
    events[1]!.refuse(new Error("no room"));
    events[2]!.take();
    expect(await client.ended).toBe("undelivered");
    expect(state()!.received).toBe(AFTER[0]!);
    expect(await warned.promise).toEqual(new Error("no room"));
  });

  test("a handler may await replies to its own requests while more than the bound is pending", async () => {
    const many = Array.from({ length: 700 }, (_, index) => `message bob ${index} ${"x".repeat(1000)}\n`).join("");
    fake = sessionWith(many, (line, { send }) => line.startsWith("message") && (send("ok sent\n"), true));
    let echoed = 0;
    const { promise: allEchoed, resolve } = Promise.withResolvers<void>();
    const { client } = newClient({
      onEvent: async () => {
        await client.message("bob", "echo");
        if (++echoed === 700) resolve();
      },
    });
    await client.login("alice", PASSWORD);
    await allEchoed;
  });
});

test("reading stops while more than the bound is pending, and continues when handlers finish", async () => {
  const line = `broadcast bob ${"x".repeat(1000)}\n`;
  const count = 20_000;
  let sent = 0;
  let drain = (): void => {};
  const flood = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      data: (socket) => {
        if (sent > 0) return;
        socket.write(`ok ${TOKEN} 35\n`);
        const all = Buffer.from(line.repeat(count));
        drain = () => {
          while (sent < all.length) {
            const taken = socket.write(all, sent, Math.min(65_536, all.length - sent));
            if (taken <= 0) return;
            sent += taken;
          }
        };
        drain();
      },
      drain: () => drain(),
    },
  });
  const { client, events, until } = newClient({ port: flood.port });
  await client.login("alice", PASSWORD);
  // The client may read the kernel buffers and one chunk of the runtime, which is far from everything.
  await until(() => events.length * line.length > UNDELIVERED_BYTES_MAX);
  for (let turns = 0; turns < 200; turns++) await new Promise((resolve) => setImmediate(resolve));
  expect(events.length * line.length).toBeLessThan(2 * UNDELIVERED_BYTES_MAX + 524_288);
  let taken = 0;
  while (taken < count) {
    await until(() => events.length > taken);
    while (taken < events.length) events[taken++]!.take();
  }
  flood.stop(true);
});

test("the delivered position stays before a pending line, and both positions restart with a new stream", () => {
  const queue = new DeliveryQueue(
    () => {},
    () => {},
    () => {},
  );
  queue.take(10);
  expect(queue.delivered).toBe(10);
  queue.take(20, () => new Promise(() => {}));
  queue.take(30);
  expect([queue.read, queue.delivered]).toEqual([30, 10]);
  queue.restart();
  expect([queue.read, queue.delivered]).toEqual([0, 0]);
});

describe("catchUp", () => {
  let server: WireServer;
  let folder: string;

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), "heartline-"));
    server = new WireServer({ data: join(folder, "data") }, ["alice", "bob"]);
    await server.ready();
  });

  afterEach(async () => {
    await server.stop();
    rmSync(folder, { recursive: true });
  });

  test.each(["resumable", "callback"] as const)(
    "acknowledges all stored messages of a %s session, so the next login of any client gets none",
    async (session) => {
      const bob = await server.login("bob");
      for (let index = 0; index < 50; index++) await bob.expectReply(`message alice number ${index}`, "ok stored");
      const taken: string[] = [];
      const onEvent = async (event: ChatEvent): Promise<void> => {
        await new Promise((resolve) => setImmediate(resolve));
        taken.push("text" in event ? event.text : event.kind);
      };
      const options = { port: server.port, session, onEvent, store: undefined };
      const first = newClient(options);
      await first.client.login("alice", PASSWORD);
      await first.client.catchUp();
      expect(taken.filter((text) => text.startsWith("number"))).toHaveLength(50);
      await first.client.logout();
      const again = newClient({ ...options, onEvent: (event) => void taken.push(`again ${event.kind}`) });
      await again.client.login("alice", PASSWORD);
      await again.client.catchUp();
      expect(taken.filter((text) => text.startsWith("again stored"))).toEqual([]);
    },
    30_000,
  );

  test("resolves after the first message that was sent after the login, while others keep sending", async () => {
    const atMs = Date.now();
    fake = new FakeServer((line, { send }) => {
      if (line.startsWith("login")) return send(`ok ${TOKEN} 35\nstored bob ${atMs - 5_000} waited\n`);
      setSystemTime(Date.now() + 1_000);
      send(`stored bob ${Date.now()} news\nok 0\n`);
    });
    const { client } = newClient({ onEvent: () => {} });
    try {
      await client.login("alice", PASSWORD);
      await client.catchUp();
      expect(fake.lines.filter((line) => line.includes("alive")).length).toBeLessThan(10);
    } finally {
      setSystemTime();
    }
  });

  test("fetches a mailbox that needs many calls of a callback session", async () => {
    const bob = await server.login("bob");
    const count = 600;
    for (let index = 0; index < count; index++) bob.sendLines(`message alice ${"x".repeat(3_000)}`);
    for (let index = 0; index < count; index++) await bob.expectLines("ok stored");
    const { client, events } = newClient({ port: server.port, session: "callback", store: undefined });
    const take = setInterval(() => events.forEach((event) => event.take()), 1);
    await client.login("alice", PASSWORD);
    await client.catchUp();
    await client.logout();
    clearInterval(take);
    expect(events.filter(({ text }) => text.startsWith("x"))).toHaveLength(count);
  }, 30_000);

  test("continues in the next session when the server ends the first one", async () => {
    fake = new FakeServer((line, { number, send, close }) => {
      if (line.startsWith("login"))
        send(`ok ${number === 1 ? TOKEN : NEXT} 35\n${number === 1 ? "" : "stored bob 1 two\n"}`);
      else if (line.startsWith("resume")) send("err unknown_session\n");
      else if (number === 1) close();
      else send("ok 0\n");
    });
    const delivered: ChatEvent[] = [];
    const { client } = newClient({ onEvent: (event) => void delivered.push(event) });
    await client.login("alice", PASSWORD);
    await client.catchUp();
    expect(delivered.map(({ kind }) => kind)).toEqual(["lost", "stored", "back"]);
  });

  test("fetches everything from a server whose clock is ahead", async () => {
    const texts = ["one", "two", "three"];
    fake = new FakeServer((line, { send }) => {
      const text = texts.shift();
      const stored = text === undefined ? "" : `stored bob ${Date.now() + 3_600_000} ${text}\n`;
      send(line.startsWith("login") ? `ok ${TOKEN} 35\n${stored}` : `${stored}ok 0\n`);
    });
    const delivered: ChatEvent[] = [];
    const { client } = newClient({ onEvent: (event) => void delivered.push(event) });
    await client.login("alice", PASSWORD);
    await client.catchUp();
    expect(delivered).toHaveLength(3);
  });
});

test("retry waits for the end of a lockout, and does not repeat after a final refusal", async () => {
  jest.useFakeTimers();
  try {
    const failures = [new ChatError("locked_out", "60"), new ChatError("wrong_password", "2")];
    let attempts = 0;
    const attempt = (): Promise<void> => Promise.reject(failures[attempts++]!);
    const ended = retry(attempt, ["locked_out", "busy"], 30_000).catch((error: ChatError) => error.code);
    for (const seconds of [0, 59]) {
      jest.advanceTimersByTime(seconds * 1_000);
      for (let turns = 0; turns < 10; turns++) await Promise.resolve();
      expect(attempts).toBe(1);
    }
    jest.advanceTimersByTime(1_000);
    expect(await ended).toBe("wrong_password");
    expect(attempts).toBe(2);
  } finally {
    jest.useRealTimers();
  }
});

describe("a heartbeat", () => {
  beforeEach(() => void jest.useFakeTimers());
  afterEach(() => void jest.useRealTimers());

  /** A heartbeat of a session that ends after 35 s without a line, and what it did. */
  function newHeartbeat(state: { now: "disconnected" | "paused" | "reading" } = { now: "reading" }) {
    const did: string[] = [];
    const heartbeat = new Heartbeat({
      state: () => state.now,
      isDue: () => false,
      beat: () => {
        did.push("beat");
        return new Promise(() => {});
      },
      overdue: () => void did.push("overdue"),
    });
    heartbeat.start(35_000);
    return { did, heartbeat };
  }

  test("beats after a suspend in which only the wall clock advanced, and reports a dead server within 10 s", () => {
    const { did, heartbeat } = newHeartbeat();
    jest.advanceTimersByTime(3_000);
    expect(did).toEqual([]);
    jest.setSystemTime(Date.now() + 600_000);
    jest.advanceTimersByTime(1_000);
    expect(did).toEqual(["beat"]);
    jest.advanceTimersByTime(9_000);
    expect(did.slice(0, 2)).toEqual(["beat", "overdue"]);
    heartbeat.stop();
  });

  test("sends no extra beat when the wall clock is set back", () => {
    const { did, heartbeat } = newHeartbeat();
    jest.setSystemTime(Date.now() - 600_000);
    jest.advanceTimersByTime(20_000);
    expect(did).toEqual([]);
    heartbeat.stop();
  });

  test("sends beats while reading is paused, and restarts the deadline of a reply when reading continues", () => {
    const state = { now: "paused" as "paused" | "reading" };
    const { did, heartbeat } = newHeartbeat(state);
    jest.advanceTimersByTime(95_000);
    expect(did).toEqual(["beat", "beat", "beat"]);
    state.now = "reading";
    heartbeat.restartDeadline();
    jest.advanceTimersByTime(7_000);
    expect(did).toEqual(["beat", "beat", "beat"]);
    jest.advanceTimersByTime(3_000);
    expect(did).toContain("overdue");
    heartbeat.stop();
  });

  test("is not overdue while lines arrive, since its reply may wait for those to earlier requests", () => {
    const { did, heartbeat } = newHeartbeat();
    jest.advanceTimersByTime(31_000);
    for (let i = 0; i < 10; i++) {
      heartbeat.restartDeadline();
      jest.advanceTimersByTime(3_000);
    }
    expect(did).toEqual(["beat"]);
    jest.advanceTimersByTime(10_000);
    expect(did).toContain("overdue");
    heartbeat.stop();
  });
});
