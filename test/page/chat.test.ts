/** The chat of the page, without a browser: a client that the test answers for, and a database that only lists. */
import { expect, test } from "bun:test";
import type { Key } from "../../src/client/indexed-db-state.ts";
import type { ClientState } from "../../src/client/session.ts";
import { ChatError } from "../../src/client/errors.ts";
import { Chat, type Client } from "../../src/page/chat.ts";
import { EVERYBODY } from "../../src/page/conversations.ts";

/** Requests wait for the test. */
class FakeClient {
  status: Client["status"] = "online";
  readonly requests: { line: string; resolve: (value: never) => void; reject: (error: ChatError) => void }[] = [];

  #request(line: string): Promise<never> {
    return new Promise((resolve, reject) => this.requests.push({ line, resolve, reject }));
  }

  message = (user: string, text: string) => this.#request(`message ${user} ${text}`);
  broadcast = (text: string) => this.#request(`broadcast ${text}`);
  online = () => this.#request("online");
  block = (user: string) => this.#request(`block ${user}`);
  unblock = (user: string) => this.#request(`unblock ${user}`);
  catchUp = () => this.#request("catchUp");

  get lines(): string[] {
    return this.requests.map(({ line }) => line);
  }

  async answer(value: unknown): Promise<void> {
    this.requests.shift()!.resolve(value as never);
    await Bun.sleep(0);
  }

  async refuse(code: string, detail = ""): Promise<void> {
    this.requests.shift()!.reject(new ChatError(code, detail));
    await Bun.sleep(0);
  }
}

/** The chat of alice, and what is stored of it. */
function chat(
  kept = new Map<Key, unknown>(),
  saved: ClientState | null = null,
): { chat: Chat; client: FakeClient; kept: Map<Key, unknown> } {
  const put = async (key: Key, value: unknown): Promise<void> => {
    if (value === undefined) kept.delete(key);
    else kept.set(key, structuredClone(value));
  };
  return { chat: new Chat("alice", { put }, new Map(kept), saved), client: new FakeClient(), kept };
}

const states = (of: Chat, conversation = "bob"): (string | null)[] =>
  of.conversations.messages(conversation).map(({ state }) => state);

test("a message shows what became of it: on its way, delivered, kept, refused with the reason, or unknown", async () => {
  const { chat: alice, client } = chat();
  alice.use(client);
  for (const text of ["one", "two", "three", "four"]) alice.say("bob", text);
  expect(states(alice)).toEqual(["waiting", "waiting", "waiting", "waiting"]);
  await client.answer("sent");
  await client.answer("stored");
  await client.refuse("blocked");
  await client.refuse("unknown_outcome");
  expect(states(alice)).toEqual(["sent", "stored", "refused", "unknown"]);
  expect(alice.conversations.messages("bob")[2]!.detail).toBe("bob has blocked you");
  alice.say(EVERYBODY, "hello");
  await client.answer(3);
  expect(alice.conversations.messages(EVERYBODY)[0]).toMatchObject({ state: "sent", detail: "3" });
});

test("a message that is sent again takes the place of the one that failed", async () => {
  const { chat: alice, client, kept } = chat();
  alice.use(client);
  alice.say("bob", "hello");
  await client.refuse("mailbox_full");
  alice.sayAgain(alice.conversations.messages("bob")[0]!);
  await client.answer("sent");
  expect(states(alice)).toEqual(["sent"]);
  expect(kept.size).toBe(1);
});

test("what is written without a session is sent when there is one, once", async () => {
  const { chat: alice, client } = chat();
  alice.say("bob", "before");
  expect(states(alice)).toEqual(["waiting"]);
  alice.use(client);
  alice.use(client);
  expect(client.lines).toEqual(["message bob before"]);
  client.status = "ended";
  alice.say("bob", "after the end");
  expect(client.lines.length).toBe(1);
});

test("after a reload everything is there, and what the client had not been given is sent", async () => {
  const first = chat();
  first.chat.event({ kind: "message", from: "bob", text: "hello" });
  for (const text of ["same", "same", "x"]) first.chat.say("bob", text);
  first.chat.use(first.client);
  const unanswered = [{ line: "message bob same", position: 17 }];
  const { chat: alice, client } = chat(first.kept, { token: "t".repeat(22), received: 0, unanswered });
  expect(alice.conversations.summary("bob").unread).toBe(1);
  alice.use(client);
  expect(client.lines).toEqual(["message bob same", "message bob x"]);
  alice.recovered("message bob same", null, "stored");
  alice.recovered("message bob unheard of", null, "sent");
  expect(states(alice)).toEqual([null, "stored", "waiting", "waiting"]);
});

test("what was read and who is blocked are known after a reload", async () => {
  const first = chat();
  first.chat.use(first.client);
  const blocking = first.chat.block("carol", true);
  await first.client.answer(undefined);
  await blocking;
  first.chat.event({ kind: "message", from: "bob", text: "hello" });
  first.chat.open("bob");
  const { chat: alice } = chat(first.kept);
  expect([...alice.blocked]).toEqual(["carol"]);
  expect(alice.conversations.unread).toBe(0);
});

test("a message whose session has ended goes on waiting", async () => {
  const { chat: alice, client } = chat();
  alice.use(client);
  alice.say("bob", "hello");
  await client.refuse("closed");
  expect(states(alice)).toEqual(["waiting"]);
  const next = new FakeClient();
  alice.use(next);
  expect(next.lines).toEqual([]); // The client repeats it by itself.
});

test("the note after a login or a loss counts the messages that waited", async () => {
  const { chat: alice, client } = chat();
  alice.use(client);
  const first = alice.online();
  await client.answer({ names: ["bob"], more: 0 });
  alice.event({ kind: "stored", from: "bob", unixMs: 1, text: "one" });
  await client.answer(undefined);
  await first;
  expect(alice.note).toBe("1 message waited.");
  alice.lost();
  expect(alice.note).toContain("kept and sent later");
  const second = alice.online();
  await client.answer({ names: [], more: 0 });
  alice.event({ kind: "message", from: "bob", text: "two" });
  alice.event({ kind: "broadcast", from: "bob", text: "three" });
  await client.answer(undefined);
  await second;
  expect(alice.note).toBe("You are back. 2 messages waited.");
});

test("what arrives in the open conversation is read while the page is looked at, and unread otherwise", () => {
  const { chat: alice } = chat();
  alice.open("bob");
  alice.event({ kind: "message", from: "bob", text: "one" });
  expect(alice.conversations.unread).toBe(0);
  alice.watch(false);
  alice.event({ kind: "message", from: "bob", text: "two" });
  expect(alice.conversations.unread).toBe(1);
  alice.watch(true);
  expect(alice.conversations.unread).toBe(0);
  expect(alice.newAfterId).toBe(1);
});

test("a user who is blocked already counts as blocked, and another refusal is shown", async () => {
  const { chat: alice, client } = chat();
  alice.use(client);
  const first = alice.block("bob", true);
  await client.refuse("already_blocked");
  await first;
  expect([...alice.blocked]).toEqual(["bob"]);
  const second = alice.block("nobody", true);
  await client.refuse("unknown_user");
  await second;
  expect(alice.note).toBe("Not blocked: there is no user nobody.");
  const third = alice.block("bob", false);
  await client.answer(undefined);
  await third;
  expect([...alice.blocked]).toEqual([]);
});

test("a notice of the operator is a message to everybody without a user", () => {
  const { chat: alice } = chat();
  alice.event({ kind: "notice", text: "the server restarts at noon" });
  expect(alice.conversations.messages(EVERYBODY)[0]).toMatchObject({ from: "", text: "the server restarts at noon" });
});
