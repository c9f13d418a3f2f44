import { afterEach, beforeEach, describe, expect, spyOn, test } from "bun:test";
import { IDBDatabase } from "fake-indexeddb";
import { ChatClient, type ClientState, type IndexedDbState, indexedDbState } from "../../src/client/web-client.ts";
import { addBrowser, removeBrowser } from "../support/browser.ts";
import { FakeServer } from "../support/fake-server.ts";
import { WebRelay } from "../support/web-relay.ts";
import { PASSWORD, WireServer } from "../support/wire.ts";

const STATE: ClientState = { token: "A".repeat(22), received: 5, unanswered: [], read: 5, silenceMs: 35_000 };

let indexedDB: ReturnType<typeof addBrowser>;

beforeEach(() => {
  indexedDB = addBrowser();
});

afterEach(() => removeBrowser());

/** A state as the next page finds it. */
async function reopen(state: IndexedDbState): Promise<IndexedDbState> {
  await state.close();
  return indexedDbState("alice");
}

test("a new state is empty, and the next page loads what the last one has saved and put", async () => {
  const state = await indexedDbState("alice");
  expect([await state.load(), await state.kept()]).toEqual([null, new Map()]);
  await state.save(STATE);
  await state.put("b", { text: "two" });
  void state.put(10, [1]);
  void state.put(9, "removed");
  void state.put(9, undefined);
  const next = await reopen(state);
  expect(await next.load()).toEqual(STATE);
  expect([...(await next.kept())]).toEqual([
    [10, [1]],
    ["b", { text: "two" }],
  ]);
});

test("what is put and saved in one turn is stored in one transaction, which is flushed to the disk", async () => {
  const state = await indexedDbState("alice");
  const transactions = spyOn(IDBDatabase.prototype, "transaction");
  const stored = [state.put(1, "one"), state.save(STATE)];
  await Promise.resolve();
  stored.push(state.put(2, "two"), state.save({ ...STATE, received: 6 }));
  await Promise.all(stored);
  expect(transactions.mock.calls).toEqual([[["state", "kept"], "readwrite", { durability: "strict" }]]);
  await state.save({ ...STATE, received: 7 });
  expect(transactions).toHaveBeenCalledTimes(2);
  transactions.mockRestore();
  expect(await state.load()).toMatchObject({ received: 7 });
});

test("a value that cannot be stored fails its whole transaction and all later ones", async () => {
  const state = await indexedDbState("alice");
  await state.save(STATE);
  const failed = [state.put(1, "one"), state.put(2, () => {}), state.save({ ...STATE, received: 9 })];
  expect((await Promise.allSettled(failed)).map(({ status }) => status)).toEqual(["rejected", "rejected", "rejected"]);
  await expect(state.save({ ...STATE, received: 10 })).rejects.toThrow("cannot be stored");
  const next = await reopen(state);
  expect([await next.load(), await next.kept()]).toEqual([STATE, new Map()]);
});

describe("two tabs", () => {
  test("cannot have one state: the second is refused, and another user is not", async () => {
    await indexedDbState("alice");
    await expect(indexedDbState("alice")).rejects.toMatchObject({ code: "in_use" });
    await indexedDbState("bob");
  });

  test("the second tab waits when it has onInUse, and goes on with what the first one has stored", async () => {
    const first = await indexedDbState("alice");
    const inUse = Promise.withResolvers<void>();
    const second = indexedDbState("alice", { onInUse: inUse.resolve });
    await inUse.promise;
    void first.save(STATE);
    void first.close();
    expect(await (await second).load()).toEqual(STATE);
  });

  test("the wait ends with its signal, and the tab after it gets the state", async () => {
    const first = await indexedDbState("alice");
    const controller = new AbortController();
    const onInUse = (): void => controller.abort(new Error("enough"));
    await expect(indexedDbState("alice", { onInUse, signal: controller.signal })).rejects.toThrow("enough");
    const third = indexedDbState("alice");
    await first.close();
    await third;
  });
});

test("delete leaves nothing of one user, and everything of another", async () => {
  const bob = await indexedDbState("bob");
  await bob.save(STATE);
  const state = await indexedDbState("alice");
  void state.save(STATE);
  void state.put(1, "one");
  await state.delete();
  expect((await indexedDB.databases()).map(({ name }: { name: string }) => name)).toEqual(["heartline:bob"]);
  const next = await indexedDbState("alice");
  expect([await next.load(), await next.kept()]).toEqual([null, new Map()]);
});

test("without locks, or without storage, there is a clear error", async () => {
  addBrowser(false);
  await expect(indexedDbState("alice")).rejects.toMatchObject({ code: "insecure" });
  indexedDB = addBrowser();
  spyOn(indexedDB, "open").mockImplementation(() => {
    throw new Error("no storage in this window");
  });
  for (let i = 0; i < 2; i++)
    await expect(indexedDbState("alice")).rejects.toMatchObject({
      code: "not_saved",
      detail: expect.stringContaining("no storage"),
    });
});

describe("a client with it", () => {
  test("acknowledges only what is stored, and ends when nothing can be stored", async () => {
    const fake = new FakeServer((line, { send }) => {
      if (line.startsWith("login")) send(`ok ${"A".repeat(22)} 35\nmessage bob one\n`);
      else send("ok\n");
    });
    const relay = new WebRelay(fake.port);
    const state = await indexedDbState("alice");
    const warning = spyOn(console, "warn").mockImplementation(() => {});
    const shown = Promise.withResolvers<void>();
    const client = new ChatClient({ url: relay.url, store: () => state, onEvent: () => shown.resolve() });
    await client.login("alice", PASSWORD);
    await shown.promise;
    spyOn(IDBDatabase.prototype, "transaction").mockImplementation(() => {
      throw new Error("the disk is full");
    });
    const outcome = client.catchUp().catch(({ code }) => code);
    expect(await client.ended).toBe("not_saved");
    expect(await outcome).toBe("closed");
    expect(warning).toHaveBeenCalledWith(expect.objectContaining({ message: "the disk is full" }));
    expect(fake.lines.filter((line) => line.includes("alive"))).toEqual([]);
    spyOn(IDBDatabase.prototype, "transaction").mockRestore();
    warning.mockRestore();
    relay.stop();
    fake.stop();
  });

  test("sends what was typed offline after a reload, and continues the session without a password", async () => {
    const server = new WireServer();
    const relay = new WebRelay(server.port);
    const bob = await server.login("bob");
    const first = await indexedDbState("alice");
    const alice = new ChatClient({ url: relay.url, store: () => first, onEvent: () => {} });
    await alice.login("alice", PASSWORD);
    await bob.expectLines("joined alice");
    relay.listens = false;
    relay.cut();
    while (alice.status !== "lost") await new Promise(setImmediate);
    const typed = alice.message("bob", "typed offline").catch(({ code }) => code);
    await first.put(1, "typed offline");
    alice.close();
    expect(await typed).toBe("closed");
    expect(await alice.ended).toBe("lost");
    relay.listens = true;
    const second = await reopen(first);
    const recovered: unknown[] = [];
    const onRecovered = (...outcome: unknown[]): void => void recovered.push(outcome);
    const again = new ChatClient({ url: relay.url, store: () => second, onEvent: () => {}, onRecovered });
    await again.resume("alice");
    await bob.expectLines("message alice typed offline");
    expect(await again.message("bob", "and more")).toBe("sent");
    await bob.expectLines("message alice and more");
    expect(recovered).toEqual([["message bob typed offline", null, "sent"]]);
    await again.logout();
    await again.ended;
    await bob.expectLines("left alice logout");
    await second.delete();
    expect(await indexedDB.databases()).toEqual([]);
    relay.stop();
    await server.stop();
  });
});
