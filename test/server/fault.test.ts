import { afterEach, beforeEach, describe, expect, spyOn, test } from "bun:test";
import { Chat } from "../../src/chat/chat.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import { Connection } from "../../src/net/connection.ts";
import { Store } from "../../src/storage/store.ts";
import { TimerWheel } from "../../src/timer-wheel.ts";
import { PASSWORD, type WireClient, WireServer } from "../support/wire.ts";

let server: WireServer;
let alice: WireClient;
let bob: WireClient;

beforeEach(async () => {
  server = new WireServer({ limits: { requestsPerSecondMax: 40 } });
  [bob, alice] = (await server.online("bob", "alice")) as [WireClient, WireClient];
});

afterEach(async () => {
  server.cut();
  await server.stop();
});

/** The only error in the log, which is removed: `stop` throws when there are any. */
function theFault(): Record<string, unknown> {
  expect(server.faults).toHaveLength(1);
  return JSON.parse(server.faults.pop()!);
}

/** Bob is still online, alice is not, and can log in again. */
async function expectOnlyAliceWent(): Promise<void> {
  await bob.expectLines("left alice disconnected");
  await bob.expectReply("message bob hi", "message bob hi");
  await bob.expectLines("ok sent");
  const again = await server.login("alice");
  await bob.expectLines("joined alice");
  await again.expectReply("online", "ok bob");
}

/** The next call of this method of that connection fails. */
function failOnce(method: "data" | "readOn" | "closed", of: (connection: Connection) => boolean): void {
  const original = Connection.prototype[method] as (...args: unknown[]) => void;
  const spy = spyOn(Connection.prototype, method).mockImplementation(function (this: Connection, ...args: unknown[]) {
    if (!of(this)) return original.apply(this, args);
    spy.mockRestore();
    throw new Error("a fault");
  });
}

const isAlices = ({ session }: Connection): boolean => session?.account.name === "alice";

describe("an internal error closes one connection and logs its address and user:", () => {
  test("in a request, which gets err internal", async () => {
    const send = spyOn(Chat.prototype, "send").mockImplementation(() => {
      send.mockRestore();
      throw new Error("a fault");
    });
    alice.sendLines("message bob one", "message bob two");
    await alice.expectLines("err internal");
    await alice.expectEnd();
    expect(theFault()).toMatchObject({
      address: "127.0.0.1",
      user: "alice",
      err: { message: "a fault", stack: expect.stringContaining("fault.test.ts") },
    });
    await expectOnlyAliceWent();
  });

  test("in a handler of the socket", async () => {
    failOnce("data", isAlices);
    alice.sendLines("message bob one");
    await alice.expectEnd();
    expect(theFault()).toMatchObject({ address: "127.0.0.1", user: "alice" });
    await expectOnlyAliceWent();
  });

  test("while output is written", async () => {
    const { peek } = Outbox.prototype;
    const spy = spyOn(Outbox.prototype, "peek").mockImplementation(function (this: Outbox) {
      if (!isAlices(this.sink as Connection)) return peek.call(this);
      spy.mockRestore();
      throw new Error("a fault");
    });
    bob.sendLines("message alice one");
    await bob.expectLines("ok sent");
    await alice.expectEnd();
    expect(theFault()).toMatchObject({ address: "127.0.0.1", user: "alice" });
    await bob.expectLines("left alice disconnected");
    const again = await server.connect();
    again.sendLines(`login alice ${PASSWORD}`);
    await again.expectLines("ok <token> 35", "stored bob <ms> one");
  });

  test("at a deadline of its own", async () => {
    failOnce("readOn", isAlices);
    alice.sendLines(...Array<string>(60).fill("alive"));
    const replies = await alice.rest();
    expect(replies.length).toBeLessThan(60);
    expect(theFault()).toMatchObject({ address: "127.0.0.1", user: "alice" });
    await expectOnlyAliceWent();
  });
});

test("an error in one periodic duty does not affect the others", async () => {
  const sweep = spyOn(Chat.prototype, "sweep").mockImplementation(() => {
    throw new Error("a fault");
  });
  const { promise: retried, resolve } = Promise.withResolvers<void>();
  const retry = spyOn(Store.prototype, "retry").mockImplementation(() => resolve());
  await retried;
  sweep.mockRestore();
  retry.mockRestore();
  expect(server.faults.length).toBeGreaterThan(0);
  for (const fault of server.faults.splice(0)) expect(JSON.parse(fault)).toMatchObject({ err: { message: "a fault" } });
  await bob.expectReply("message alice hi", "ok sent");
});

test("due timers fire in the tick in which another timer fails", async () => {
  const { advance } = TimerWheel.prototype;
  const clocks: number[] = [];
  const { promise: fired, resolve } = Promise.withResolvers<void>();
  const spy = spyOn(TimerWheel.prototype, "advance").mockImplementation(function (this: TimerWheel, clockMs: number) {
    clocks.push(clockMs);
    if (clocks.length === 1) throw new Error("a fault");
    advance.call(this, clockMs);
    resolve();
  });
  await fired;
  spy.mockRestore();
  expect(clocks[1]).toBe(clocks[0]!);
  expect(theFault()).toMatchObject({ err: { message: "a fault" } });
});

test("joined is sent while the memory of the process cannot be read", async () => {
  const rss = spyOn(process.memoryUsage, "rss").mockImplementation(() => {
    throw new Error("EMFILE");
  });
  await server.login("carol");
  await Promise.all([bob, alice].map((client) => client.expectLines("joined carol")));
  rss.mockRestore();
  expect(server.faults).toEqual([]);
});

test("the log contains no password, token or message text", async () => {
  const send = spyOn(Chat.prototype, "send").mockImplementation(() => {
    send.mockRestore();
    throw new Error("a fault");
  });
  const carol = await server.connect();
  carol.sendLines("login carol guessed1", "login nobody guessed2", `login carol ${PASSWORD} resumable`);
  await carol.expectLines("err wrong_password 2", "err unknown_user");
  const token = (await carol.line()).split(" ")[1]!;
  carol.sendLines("message bob whispered", "broadcast shouted");
  await carol.expectLines("err internal");
  await carol.expectEnd();
  const back = await server.connect();
  await back.expectReply(`resume ${"x".repeat(22)} 0`, "err unknown_session");
  await back.expectReply(`resume ${token} 0`, "ok 22");
  server.faults.splice(0);
  server.cut();
  await server.stop();
  const log = server.logged.join("");
  expect(log).toContain("carol");
  for (const secret of [PASSWORD, "guessed", token, "whispered", "shouted"]) expect(log).not.toContain(secret);
});
