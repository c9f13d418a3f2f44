import { afterEach, beforeEach, expect, test } from "bun:test";
import { ChatClient, type ChatClientOptions, type ChatEvent } from "heartline/client";
import { PASSWORD, WireServer } from "../support/wire.ts";

const USERS = ["columbia", "SEAS", "foobar"];
let server: WireServer;
const clients: ChatClient[] = [];

beforeEach(async () => {
  server = new WireServer({}, USERS);
  await server.ready();
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  await server.stop();
});

/** A client; `received(n)` resolves with its first n events. */
function newClient(
  port = server.port,
  options: Partial<ChatClientOptions> = {},
): { client: ChatClient; received: (count: number) => Promise<ChatEvent[]> } {
  const events: ChatEvent[] = [];
  let changed = (): void => {};
  const onEvent = (event: ChatEvent): void => {
    events.push(event);
    changed();
  };
  const client = new ChatClient({ host: "127.0.0.1", port, onEvent, ...options });
  clients.push(client);
  const received = async (count: number): Promise<ChatEvent[]> => {
    while (events.length < count) await new Promise<void>((resolve) => (changed = resolve));
    return events.slice(0, count);
  };
  return { client, received };
}

test("login, message, broadcast, online, block, unblock and logout work between two clients", async () => {
  const { client: columbia, received } = newClient();
  const { client: seas, received: seasReceived } = newClient();
  expect(await columbia.login("columbia", PASSWORD)).toMatchObject({ silenceMs: 35_000 });
  await seas.login("SEAS", PASSWORD);
  expect(await columbia.online()).toEqual({ names: ["SEAS"], more: 0 });
  expect(await columbia.message("SEAS", "größe  👋 ")).toBe("sent");
  expect(await columbia.message("foobar", "later")).toBe("stored");
  expect(await seas.broadcast("to all")).toBe(1);
  await seas.block("columbia");
  await expect(columbia.message("SEAS", "hello?")).rejects.toMatchObject({ code: "blocked" });
  await seas.unblock("columbia");
  await seas.logout();
  expect(await seas.ended).toBe("logout");
  expect(await seasReceived(1)).toEqual([{ kind: "message", from: "columbia", text: "größe  👋 " }]);
  expect(await received(3)).toEqual([
    { kind: "joined", user: "SEAS" },
    { kind: "broadcast", from: "SEAS", text: "to all" },
    { kind: "left", user: "SEAS", reason: "logout" },
  ]);
});

test("requests that do not wait for earlier replies are answered in order", async () => {
  const { client, received } = newClient();
  await client.login("columbia", PASSWORD);
  const texts = Array.from({ length: 1000 }, (_, index) => `number ${index}`);
  const fates = await Promise.all(texts.map((text) => client.message("columbia", text)));
  expect(fates.every((fate) => fate === "sent")).toBe(true);
  expect((await received(1000)).map((event) => "text" in event && event.text)).toEqual(texts);
});

test.each(["plain", "resumable"] as const)(
  "a full server refuses the login of a %s session with busy, and accepts it later",
  async (session) => {
    await server.stop();
    server = new WireServer({ limits: { connectionsMax: 1 } }, USERS);
    await server.ready();
    const { client: columbia } = newClient();
    await columbia.login("columbia", PASSWORD);
    const { client: seas } = newClient(server.port, { session });
    await expect(seas.login("SEAS", PASSWORD)).rejects.toMatchObject({ code: "busy", detail: "too many connections" });
    await columbia.logout();
    await columbia.ended;
    for (;;) {
      const code = await seas.login("SEAS", PASSWORD).then(
        () => "",
        (error) => error.code,
      );
      if (code === "") break;
      expect(code).toBe("busy");
    }
  },
);

test("stored messages have the time at which they were sent", async () => {
  const { client: columbia } = newClient();
  await columbia.login("columbia", PASSWORD);
  const before = Date.now();
  await columbia.message("SEAS", "while you were away");
  const { client: seas, received } = newClient();
  await seas.login("SEAS", PASSWORD);
  const [event] = await received(1);
  expect(event).toMatchObject({ kind: "stored", from: "columbia", text: "while you were away" });
  expect(event!.kind === "stored" && event!.unixMs >= before && event!.unixMs <= Date.now()).toBe(true);
});

test("a refused login rejects with the reason, and the next login may succeed", async () => {
  const { client } = newClient();
  await expect(client.login("nobody", "x")).rejects.toMatchObject({ code: "unknown_user" });
  await expect(client.login("columbia", "x")).rejects.toMatchObject({ code: "wrong_password", detail: "2" });
  expect((await client.login("columbia", PASSWORD)).token).toMatch(/^[\w-]{22,64}$/);
});

test("the server closes the connection of a locked out client, and the next login connects again", async () => {
  const { client } = newClient();
  for (let i = 0; i < 2; i++) await client.login("columbia", "x").catch(() => {});
  await expect(client.login("columbia", "x")).rejects.toMatchObject({ code: "locked_out", detail: "60" });
  await expect(client.login("SEAS", PASSWORD).catch(() => client.login("SEAS", PASSWORD))).resolves.toBeDefined();
});

test("names and texts that would form other requests are refused before they are sent", async () => {
  const { client } = newClient();
  await client.login("columbia", PASSWORD);
  await expect(client.message("SEAS", "one\nlogout")).rejects.toMatchObject({ code: "bad_request" });
  await expect(client.message("SEAS x", "one")).rejects.toMatchObject({ code: "bad_request" });
  await expect(client.broadcast("")).rejects.toMatchObject({ code: "bad_request" });
  expect((await client.online()).names).toEqual([]);
});

test("a client whose session is replaced receives goodbye replaced, and ended resolves with replaced", async () => {
  const { client: old, received } = newClient();
  await old.login("columbia", PASSWORD);
  const { client: young } = newClient();
  await young.login("columbia", PASSWORD);
  expect(await old.ended).toBe("replaced");
  expect(await received(1)).toEqual([{ kind: "goodbye", reason: "replaced" }]);
  await expect(old.online()).rejects.toMatchObject({ code: "closed" });
});

test("a client sends heartbeats by itself, within the idle timeout that the server announced", async () => {
  await server.stop();
  server = new WireServer({ idleTimeoutMs: 300 }, USERS);
  await server.ready();
  const { client: silent } = newClient();
  await silent.login("columbia", PASSWORD);
  const { client: watcher, received } = newClient();
  await watcher.login("SEAS", PASSWORD);
  // A session that sends nothing expires. Until then the other two must have sent a heartbeat.
  const mute = await Bun.connect({ hostname: "127.0.0.1", port: server.port, socket: { data() {} } });
  mute.write(`login foobar ${PASSWORD}\n`);
  expect(await received(2)).toEqual([
    { kind: "joined", user: "foobar" },
    { kind: "left", user: "foobar", reason: "expired" },
  ]);
  expect((await watcher.online()).names).toEqual(["columbia"]);
});

test("a plain session ends as lost when the server stops replying", async () => {
  const mute = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      data(socket, bytes) {
        if (bytes.toString().startsWith("login")) socket.write("ok AAAAAAAAAAAAAAAAAAAAAA 0.2\n");
      },
    },
  });
  const { client } = newClient(mute.port, { session: "plain" });
  await client.login("columbia", PASSWORD);
  expect(await client.ended).toBe("lost");
  mute.stop(true);
});

test("a plain session ends as shutdown when the server stops", async () => {
  const { client } = newClient(server.port, { session: "plain" });
  await client.login("columbia", PASSWORD);
  void server.stop();
  expect(await client.ended).toBe("shutdown");
});

test("connect rejects with ECONNREFUSED when no server listens at the port", async () => {
  const { client } = newClient(1);
  await expect(client.connect()).rejects.toMatchObject({ code: "ECONNREFUSED" });
});
