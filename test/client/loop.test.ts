import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChatClient, type ChatClientOptions, type ChatEvent, fileState, memoryState } from "heartline/client";
import { LineSplitter } from "../../src/client/line-splitter.ts";
import { Proxy } from "../system/chaos/fault-proxy.ts";
import { FakeServer } from "../support/fake-server.ts";
import { PASSWORD, WireServer } from "../support/wire.ts";

let server: WireServer;
let proxy: Proxy;
const clients: ChatClient[] = [];

beforeEach(() => {
  server = new WireServer();
  proxy = new Proxy(server.port);
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  proxy.stop();
  await server.stop();
});

function newClient(options: Partial<ChatClientOptions> = {}): ChatClient {
  const client = new ChatClient({ host: "127.0.0.1", port: proxy.port, ...options });
  clients.push(client);
  return client;
}

/** The texts of the next events, up to `last`; then the loop is left. */
async function textsUntil(client: ChatClient, last: string): Promise<string[]> {
  const texts: string[] = [];
  for await (const event of client) {
    texts.push("text" in event ? event.text : event.kind);
    if (texts.at(-1) === last) break;
  }
  return texts;
}

test("a loop gets all events in order, also those from before it began, and ends with the session", async () => {
  const alice = newClient();
  const bob = newClient({ onEvent: () => {} });
  await alice.login("alice", PASSWORD);
  await bob.login("bob", PASSWORD);
  await bob.message("alice", "one");
  await bob.broadcast("two");
  const seen: string[] = [];
  for await (const event of alice) {
    seen.push("text" in event ? event.text : event.kind);
    if (event.kind === "broadcast") void bob.message("alice", "three").then(() => bob.logout());
    if (event.kind === "left") await alice.logout();
  }
  expect(seen).toEqual(["joined", "one", "two", "three", "left"]);
  expect(await alice.ended).toBe("logout");
});

test("what no loop has taken comes again at the next login, and what a loop was left with does not", async () => {
  const bob = newClient({ onEvent: () => {} });
  await bob.login("bob", PASSWORD);
  const alice = newClient();
  await alice.login("alice", PASSWORD);
  for (const text of ["one", "two", "three"]) await bob.message("alice", text);
  expect(await textsUntil(alice, "two")).toEqual(["one", "two"]);
  await alice.logout();
  expect(await alice.ended).toBe("logout");
  const again = newClient();
  await again.login("alice", PASSWORD);
  expect(await textsUntil(again, "three")).toEqual(["three"]);
});

test("an event that a loop has in hand when the client is closed comes again", async () => {
  const bob = newClient({ onEvent: () => {} });
  await bob.login("bob", PASSWORD);
  const alice = newClient();
  await alice.login("alice", PASSWORD);
  for (const text of ["one", "two"]) await bob.message("alice", text);
  for await (const event of alice) if ("text" in event && event.text === "two") alice.close();
  const again = newClient();
  await again.login("alice", PASSWORD);
  expect(await textsUntil(again, "two")).toContain("two");
});

test("a loop sees each message once when the connection is cut between two of them", async () => {
  const bob = newClient({ onEvent: () => {} });
  await bob.login("bob", PASSWORD);
  const alice = newClient();
  await alice.login("alice", PASSWORD);
  for (const text of ["one", "two", "three"]) await bob.message("alice", text);
  const texts: string[] = [];
  for await (const event of alice) {
    if ("text" in event) texts.push(event.text);
    if (texts.at(-1) === "one" && texts.length === 1) {
      proxy.cut();
      await alice.online();
      await bob.message("alice", "four");
    }
    if (texts.at(-1) === "four") break;
  }
  expect(texts).toEqual(["one", "two", "three", "four"]);
});

test("a loop sees each message once when a new session begins while messages wait for it", async () => {
  const [token, next] = ["A".repeat(22), "B".repeat(22)];
  const line = "message bob one\n";
  const fake = new FakeServer((request, { number, send, close }) => {
    if (request.startsWith("login"))
      send(number === 1 ? `ok ${token} 35\n${line}message bob two\n` : `ok ${next} 35\nstored bob 1 two\n`);
    else if (request.startsWith("resume")) send("err unknown_session\n");
    else if (number === 1) close();
    else send("ok\n");
  });
  const alice = newClient({ port: fake.port });
  await alice.login("alice", PASSWORD);
  const seen: string[] = [];
  for await (const event of alice) {
    seen.push("text" in event ? event.text : event.kind);
    if (event.kind === "stored") break;
    if (seen.length > 1) continue;
    // The loop has "one" in hand, and "two" waits, until the server has refused to continue the session.
    alice.online().catch(() => {});
    await fake.received(/resume/);
    for (let turns = 0; turns < 50; turns++) await new Promise(setImmediate);
  }
  expect(seen.filter((each) => each !== "lost" && each !== "back")).toEqual(["one", "two"]);
  const login = await fake.received(/after=/);
  expect(login).toEndWith(`after=${token}:${line.length}`);
  alice.close();
  fake.stop();
});

test("a second loop at the same time is refused, and so is a loop of a client with onEvent", async () => {
  const alice = newClient();
  alice[Symbol.asyncIterator]();
  expect(() => alice[Symbol.asyncIterator]()).toThrow("another loop");
  expect(() => newClient({ onEvent: () => {} })[Symbol.asyncIterator]()).toThrow("onEvent");
});

test("the status and the events lost and back follow the connection", async () => {
  const events: string[] = [];
  const back = Promise.withResolvers<void>();
  const alice = newClient({
    onEvent: (event: ChatEvent) => {
      events.push(`${event.kind} ${alice.status}`);
      if (event.kind === "back") back.resolve();
    },
  });
  expect(alice.status).toBe("new");
  await alice.login("alice", PASSWORD);
  expect(alice.status).toBe("online");
  proxy.cut();
  await back.promise;
  expect(events).toEqual(["lost lost", "back online"]);
  await alice.logout();
  expect(alice.status).toBe("ended");
});

test("await using logs out at the end of the block", async () => {
  const bob = await server.login("bob");
  {
    await using alice = newClient();
    await alice.login("alice", PASSWORD);
    await bob.expectLines("joined alice");
  }
  await bob.expectLines("left alice logout");
});

test("a signal takes back a request that was not written, and only that one", async () => {
  const bob = await server.login("bob");
  const alice = newClient({ onEvent: () => {} });
  await alice.login("alice", PASSWORD);
  await bob.expectLines("joined alice");
  const controller = new AbortController();
  const written = alice.message("bob", "one", { signal: controller.signal });
  await written;
  proxy.listens = false;
  proxy.cut();
  while (alice.status !== "lost") await new Promise(setImmediate);
  const { signal } = controller;
  const outcomes = [
    alice.message("bob", "two"),
    alice.message("bob", "three, taken back", { signal }),
    alice.message("bob", "four"),
  ].map((request) => request.catch((error: Error) => error.name));
  controller.abort();
  expect(await outcomes[1]).toBe("AbortError");
  proxy.listens = true;
  expect(await Promise.all(outcomes)).toEqual(["sent", "AbortError", "sent"]);
  expect(await alice.message("bob", "five", { signal }).catch((error: Error) => error.name)).toBe("AbortError");
  const sameTurn = new AbortController();
  const request = alice.message("bob", "six", { signal: sameTurn.signal });
  sameTurn.abort();
  expect(await request.catch((error: Error) => error.name)).toBe("AbortError");
  await alice.message("bob", "seven");
  for (const text of ["one", "two", "four", "seven"]) await bob.expectLines(`message alice ${text}`);
});

test("after a request was taken back, later requests are written once, whatever is cut", async () => {
  const [two, four, five] = ["message bob two\n", "message bob four\n", "message bob five\n"];
  const acted = [0, two.length, two.length + four.length, two.length + four.length + five.length];
  const fake = new FakeServer((line, { number, send, close }) => {
    if (line.startsWith("login")) send(`ok ${"A".repeat(22)} 35\n`);
    else if (line.startsWith("resume")) {
      send(`ok ${acted[number - 1]}\n`);
      // Later, so that a request that is written again by mistake is seen.
      if (number === 4) setTimeout(() => send("ok sent\n".repeat(3)), 50);
    } else if (line.startsWith("message")) close();
  });
  const alice = newClient({ port: fake.port, onEvent: () => {} });
  const back = async (connection: number): Promise<void> => {
    await fake.received(new RegExp(`^${connection}: resume`));
    while (alice.status !== "online") await new Promise(setImmediate);
  };
  await alice.login("alice", PASSWORD);
  const sent = [alice.message("bob", "two")];
  while (alice.status !== "lost") await new Promise(setImmediate);
  const controller = new AbortController();
  const taken = alice.message("bob", "three", { signal: controller.signal }).catch(() => "taken back");
  sent.push(alice.message("bob", "four"));
  controller.abort();
  expect(await taken).toBe("taken back");
  await back(3);
  sent.push(alice.message("bob", "five"));
  expect(await Promise.all(sent)).toEqual(["sent", "sent", "sent"]);
  expect(fake.lines.filter((line) => line.includes("message"))).toEqual([
    "1: message bob two",
    "2: message bob four",
    "3: message bob five",
  ]);
  alice.close();
  fake.stop();
});

test("a signal ends connect and login", async () => {
  const silent = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const client = newClient({ port: silent.port });
  const controller = new AbortController();
  const login = client.login("alice", PASSWORD, { signal: controller.signal });
  setImmediate(() => controller.abort(new Error("enough")));
  await expect(login).rejects.toThrow("enough");
  await expect(client.connect({ signal: controller.signal })).rejects.toThrow("enough");
  expect(client.status).toBe("new");
  silent.stop(true);
});

test.each(["resumable", "callback"] as const)("a %s session refuses a text over the limit with it", async (session) => {
  const alice = newClient({ session, onEvent: () => {} });
  await alice.login("alice", PASSWORD);
  const error = await alice.message("bob", "é".repeat(2_100)).catch((error: unknown) => error);
  expect(error).toMatchObject({ code: "line_too_long", detail: expect.stringContaining("4096") });
  expect(await alice.message("bob", "x")).toBe("stored");
  const larger = newClient({ session, onEvent: () => {}, lineBytesMax: 10_000 });
  await larger.login("bob", PASSWORD);
  await expect(larger.message("alice", "x".repeat(5_000))).rejects.toMatchObject({ code: "line_too_long", detail: "" });
});

test("with a state in a file or in memory, the next client continues exactly where the last one was", async () => {
  const folder = mkdtempSync(join(tmpdir(), "heartline-"));
  const file = join(folder, "alice.json");
  const bob = newClient({ onEvent: () => {} });
  await bob.login("bob", PASSWORD);
  for (const state of [fileState(file), memoryState()]) {
    expect(state.load()).toBeNull();
    const alice = newClient({ store: () => state });
    await alice.login("alice", PASSWORD);
    for (const text of ["one", "two"]) await bob.message("alice", text);
    await textsUntil(alice, "one");
    await new Promise(setImmediate); // The event of a loop that was left is delivered now.
    alice.close();
    const next = newClient({ store: () => state });
    await next.login("alice", PASSWORD);
    expect((await textsUntil(next, "two")).filter((text) => text === "one" || text === "two")).toEqual(["two"]);
    await next.logout();
  }
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(JSON.parse(readFileSync(file, "utf8"))).toMatchObject({ unanswered: [] });
  writeFileSync(file, "not a state");
  expect(() => fileState(file).load()).toThrow("remove it");
  rmSync(folder, { recursive: true });
});

test("lines are the same wherever the bytes are split, and a line over the limit has no text", () => {
  const bytes = new TextEncoder().encode("one\r\n\ntwo\nlonger than ten\r\nthree\n");
  for (let size = 1; size <= bytes.length; size++) {
    const splitter = new LineSplitter(10);
    const lines: string[] = [];
    let total = 0;
    for (let at = 0; at < bytes.length; at += size) {
      splitter.feed(bytes.slice(at, at + size));
      while (splitter.next()) {
        const { bytes: chunk, start, end } = splitter;
        lines.push(splitter.isTooLong ? "too long" : new TextDecoder().decode(chunk.subarray(start, end)));
        total += splitter.lineBytes;
      }
    }
    expect(lines).toEqual(["one", "", "two", "too long", "three"]);
    expect(total).toBe(bytes.length);
  }
});
