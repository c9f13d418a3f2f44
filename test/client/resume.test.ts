/** `resume`: a client continues the session of an earlier run from its saved state, without a password. */
import { afterEach, expect, test } from "bun:test";
import { ChatClient, type ChatClientOptions, type ClientState, type StateStore } from "heartline/client";
import { type FakeConnection, FakeServer } from "../support/fake-server.ts";
import { PASSWORD, WireServer } from "../support/wire.ts";

const TOKEN = "A".repeat(22);
const closers: (() => unknown)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

function newFake(received: (line: string, connection: FakeConnection) => void): FakeServer {
  const fake = new FakeServer(received);
  closers.push(() => fake.stop());
  return fake;
}

/** A client of alice, with the outcomes of requests of an earlier run. */
function newClient(port: number, saved: ClientState | null, options: Partial<ChatClientOptions> = {}) {
  const store = { saved, load: () => store.saved, save: (state: ClientState) => void (store.saved = state) };
  const recovered: unknown[] = [];
  const texts: string[] = [];
  const client = new ChatClient({
    host: "127.0.0.1",
    port,
    store: () => store as StateStore,
    onEvent: (event) => void ("text" in event && texts.push(event.text)),
    onRecovered: (request, error, reply) => void recovered.push([request, error?.code ?? null, reply]),
    ...(options as object),
  });
  closers.push(() => client.close());
  return { client, store, recovered, texts };
}

test("each reply goes to its request, also of the earlier run, and known replies to none", async () => {
  const lines = ["message bob one", "alive 40", "message bob two", "message bob three"];
  let position = 100;
  const unanswered = lines.map((line) => ({ line, position: (position += line.length + 1) }));
  const known = "ok stored\nmessage bob again\n";
  const saved = { token: TOKEN, received: 40, read: 40 + known.length, silenceMs: 35_000, unanswered };
  const fake = newFake((line, { send }) => {
    // The server has acted on the first two.
    if (line.startsWith("resume")) send(`ok ${unanswered[1]!.position}\n${known}ok sent\nok 123\n`);
    else if (line === "message bob two") send("err blocked\n");
    else if (line === "message bob three") send("ok stored\n");
    else if (line === "message bob four") send("message bob new\nok sent\n");
  });
  const { client, recovered, texts, store } = newClient(fake.port, saved);
  expect(await client.resume("alice")).toEqual({ token: TOKEN, silenceMs: 35_000 });
  expect(client.status).toBe("online");
  expect(await client.message("bob", "four")).toBe("sent");
  expect(fake.lines).toEqual([
    `1: resume ${TOKEN} 40`,
    "1: message bob two",
    "1: message bob three",
    "1: message bob four",
  ]);
  expect(recovered).toEqual([
    ["message bob one", null, "sent"],
    ["message bob two", "blocked", ""],
    ["message bob three", null, "stored"],
  ]);
  expect(texts).toEqual(["again", "new"]);
  expect(store.saved).toMatchObject({ token: TOKEN, unanswered: [], silenceMs: 35_000 });
});

test("without a state, or with one that is older than what was sent, it rejects, and a login works", async () => {
  const fake = newFake((line, { send }) => {
    if (line.startsWith("resume")) send("ok 500\n");
    else if (line.startsWith("login")) send(`ok ${"B".repeat(22)} 35 received=500\n`);
    else send("ok sent\n");
  });
  const unanswered = [{ line: "message bob one", position: 16 }];
  const states = [
    null,
    { token: TOKEN, received: 0, unanswered },
    { token: TOKEN, received: 0, unanswered, silenceMs: 1e4 },
  ];
  for (const saved of states) {
    const { client, recovered } = newClient(fake.port, saved);
    await expect(client.resume("alice")).rejects.toMatchObject({ code: "unknown_session" });
    expect([client.status, recovered]).toEqual(["new", []]);
    await client.login("alice", PASSWORD);
    expect(recovered).toEqual(saved === null ? [] : [["message bob one", "unknown_outcome", ""]]);
    expect(await client.message("bob", "two")).toBe("sent");
  }
});

test("the detail tells that the server ended the session because of a newer login", async () => {
  const server = new WireServer();
  closers.push(() => server.stop());
  const first = newClient(server.port, null);
  await first.client.login("alice", PASSWORD);
  const state = structuredClone(first.store.saved);
  first.client.close();
  await server.login("alice");
  const { client } = newClient(server.port, state);
  await expect(client.resume("alice")).rejects.toMatchObject({ code: "unknown_session", detail: "replaced" });
});

test("when the resumed session is lost for good, the client ends, and its requests stay in the state", async () => {
  let resumes = 0;
  const fake = newFake((line, { send, close }) => {
    if (line.startsWith("resume")) send(++resumes === 1 ? "ok 0\n" : "err unknown_session\n");
    else if (line.startsWith("login")) send("err wrong_password 2\n");
    else close();
  });
  const { client, store } = newClient(fake.port, { token: TOKEN, received: 7, silenceMs: 35_000, unanswered: [] });
  await expect(client.login("alice", "wrong")).rejects.toMatchObject({ code: "wrong_password" });
  await client.resume("alice"); // That password is not used later.
  const outcome = client.message("bob", "one").catch(({ code }) => code);
  expect(await client.ended).toBe("unknown_session");
  expect(await outcome).toBe("closed");
  expect(store.saved).toMatchObject({
    token: TOKEN,
    received: 7,
    unanswered: [{ line: "message bob one", position: 16 }],
  });
});

test("callback sessions and private chats need a login", async () => {
  for (const options of [{ session: "callback" }, { listenPort: 0 }] as const) {
    const { client } = newClient(1, null, options);
    await expect(client.resume("alice")).rejects.toMatchObject({ code: "bad_request" });
  }
});

test("a store that throws ends the session, with a warning and without what depends on the save", async () => {
  const fake = newFake((line, { send }) => void (line.startsWith("login") && send(`ok ${TOKEN} 35\n`)));
  const { client, store } = newClient(fake.port, null);
  await client.login("alice", PASSWORD);
  const warning = new Promise<Error>((resolve) => process.once("warning", resolve));
  store.save = () => {
    throw new Error("the disk is full");
  };
  const outcome = client.message("bob", "one").catch(({ code }) => code);
  expect(await client.ended).toBe("not_saved");
  expect((await warning).message).toBe("the disk is full");
  expect(await outcome).toBe("closed");
  expect(fake.lines.filter((line) => line.includes("message"))).toEqual([]);
});
