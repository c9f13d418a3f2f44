import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import {
  ChatClient,
  type ChatClientOptions,
  type ChatEvent,
  type ClientState,
  type StateStore,
} from "heartline/client";
import { Proxy } from "../system/chaos/fault-proxy.ts";
import { StateFile, stateFolder } from "../../src/terminal/state-file.ts";
import { PASSWORD, WireServer } from "../support/wire.ts";

const USERS = ["columbia", "SEAS"];
let folder: string;
let server: WireServer;
let proxy: Proxy;
const clients: ChatClient[] = [];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "heartline-"));
  server = new WireServer({ data: join(folder, "data") }, USERS);
  await server.ready();
  proxy = new Proxy(server.port);
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  proxy.stop();
  await server.stop();
  rmSync(folder, { recursive: true });
});

/** A client of the proxy, its events as text, and how often `onLost` and `onBack` were called. */
function newClient(options: Partial<ChatClientOptions> = {}) {
  const events: string[] = [];
  const recovered: [request: string, code: string | null][] = [];
  const seen = { lost: 0, back: 0 };
  let changed = (): void => {};
  const note = (line: string): void => {
    events.push(line);
    changed();
  };
  const client = new ChatClient({
    host: "127.0.0.1",
    port: proxy.port,
    onEvent: (event: ChatEvent) => {
      if (event.kind === "lost" || event.kind === "back") return;
      note("text" in event ? `${event.kind} ${event.text}` : event.kind);
    },
    onLost: () => void seen.lost++,
    onBack: () => {
      seen.back++;
      changed();
    },
    onRecovered: (request, error) => void recovered.push([request, error?.code ?? null]),
    ...options,
  });
  clients.push(client);
  const until = async (condition: () => boolean): Promise<void> => {
    while (!condition()) await new Promise<void>((resolve) => (changed = resolve));
  };
  return { client, events, recovered, seen, until };
}

/** A store in memory that survives its client, like a file. */
function newStore(): StateStore & { state: ClientState | null } {
  return {
    state: null,
    load() {
      return structuredClone(this.state);
    },
    save(state) {
      this.state = structuredClone(state);
    },
  };
}

test("after a cut the session continues at its position: no message is lost or delivered twice", async () => {
  const columbia = newClient();
  const seas = newClient();
  await columbia.client.login("columbia", PASSWORD);
  await seas.client.login("SEAS", PASSWORD);
  const texts = Array.from({ length: 400 }, (_, index) => `number ${index}`);
  const fates: Promise<string>[] = [];
  for (const [index, text] of texts.entries()) {
    fates.push(seas.client.message("columbia", text));
    if (index % 80 === 40) {
      await fates[index - 20];
      proxy.bytesLeft = 333;
    }
  }
  await Promise.all(fates);
  await columbia.until(() => columbia.events.filter((line) => line.startsWith("message")).length >= texts.length);
  expect(columbia.events.filter((line) => line.startsWith("message"))).toEqual(texts.map((text) => `message ${text}`));
  expect(columbia.seen.lost + seas.seen.lost).toBeGreaterThan(0);
});

test("texts that are not UTF-8 are counted, saved and sent as their bytes", async () => {
  const store = newStore();
  const columbia = newClient();
  const seas = newClient({ store: () => store });
  await columbia.client.login("columbia", PASSWORD);
  await seas.client.login("SEAS", PASSWORD);
  proxy.refuses = true;
  proxy.cut();
  const fates = ["\udce9 \udcff", "größe\r"].map((text) => seas.client.message("columbia", text));
  while (store.state!.unanswered.length < 2) await new Promise((resolve) => setImmediate(resolve));
  expect(JSON.parse(JSON.stringify(store.state!.unanswered))).toEqual([
    { line: "message columbia \udce9 \udcff", position: 17 + 3 + 1 },
    // The server drops the second CR.
    { line: "message columbia größe\r\r", position: 21 + 17 + 9 + 1 },
  ]);
  proxy.refuses = false;
  expect(await Promise.all(fates)).toEqual(["sent", "sent"]);
  await columbia.until(() => columbia.events.includes("message größe"));
  expect(columbia.events.filter((line) => line.startsWith("message"))).toEqual([
    "message \udce9 \udcff",
    "message größe",
  ]);
});

test("requests made during a disconnect wait, and are sent after the reconnect", async () => {
  const { client, events, until } = newClient();
  await client.login("columbia", PASSWORD);
  proxy.refuses = true;
  proxy.cut();
  const fate = client.message("columbia", "while away");
  proxy.refuses = false;
  expect(await fate).toBe("sent");
  await until(() => events.length > 0);
  expect(events).toEqual(["message while away"]);
});

test("a request made during a disconnect is saved at once, so it survives a kill of the program", async () => {
  const store = newStore();
  const { client } = newClient({ store: () => store });
  await client.login("columbia", PASSWORD);
  proxy.refuses = true;
  proxy.cut();
  client.message("SEAS", "made while away").catch(() => {});
  while (store.state!.unanswered.length === 0) await new Promise((resolve) => setImmediate(resolve));
  expect(store.state!.unanswered).toEqual([{ line: "message SEAS made while away", position: 29 }]);
});

test("after a restart of the server a new session continues the old one", async () => {
  const columbia = newClient();
  const seas = newClient();
  await columbia.client.login("columbia", PASSWORD);
  await seas.client.login("SEAS", PASSWORD);
  await seas.client.message("columbia", "before");
  await columbia.until(() => columbia.events.includes("message before"));
  const { port } = server;
  await server.stop();
  server = new WireServer({ data: join(folder, "data"), port }, USERS);
  await server.ready();
  expect(await seas.client.message("columbia", "after")).toMatch(/sent|stored/);
  await columbia.until(() => columbia.events.some((line) => line.endsWith(" after")));
  expect(columbia.events.filter((line) => line.includes("before"))).toEqual(["message before"]);
  expect(columbia.events).toContain("goodbye");
});

test("a replaced client does not reconnect", async () => {
  const old = newClient();
  await old.client.login("columbia", PASSWORD);
  proxy.refuses = true;
  proxy.cut();
  const young = newClient({ port: server.port });
  await young.client.login("columbia", PASSWORD);
  proxy.refuses = false;
  expect(await old.client.ended).toBe("replaced");
  expect((await young.client.online()).names).toEqual([]);
});

test("a program that was killed delivers each message once when it runs again", async () => {
  const store = newStore();
  const columbia = newClient({ store: () => store });
  const seas = newClient();
  await columbia.client.login("columbia", PASSWORD);
  await seas.client.login("SEAS", PASSWORD);
  for (const text of ["one", "two"]) await seas.client.message("columbia", text);
  await columbia.until(() => columbia.events.includes("message two"));
  // A kill is simulated: from here on nothing reaches the server or the store.
  const { state } = store;
  store.save = () => {};
  proxy.refuses = true;
  proxy.cut();
  columbia.client.close();
  proxy.refuses = false;
  await seas.client.message("columbia", "three");
  const after = { ...newStore(), state };
  const again = newClient({ store: () => after });
  await again.client.login("columbia", PASSWORD);
  await again.until(() => again.events.length > 0);
  await again.client.online();
  expect(again.events).toEqual(["stored three"]);
});

test("lines right after the reply to the login count, so none of them is delivered twice after a cut", async () => {
  const seas = newClient();
  await seas.client.login("SEAS", PASSWORD);
  const texts = Array.from({ length: 20 }, (_, index) => `waiting ${index}`);
  for (const text of texts) await seas.client.message("columbia", text);
  const columbia = newClient();
  await columbia.client.login("columbia", PASSWORD);
  await columbia.until(() => columbia.events.length === texts.length);
  proxy.cut();
  await columbia.until(() => columbia.seen.back === 1);
  await columbia.client.message("columbia", "last");
  await columbia.until(() => columbia.events.includes("message last"));
  expect(columbia.events).toEqual([...texts.map((text) => `stored ${text}`), "message last"]);
});

test.each(["resumable", "callback"] as const)(
  "a later %s run repeats the requests that the server did not act on, and reports each outcome",
  async (session) => {
    const seas = newClient();
    const first = newClient();
    await seas.client.login("SEAS", PASSWORD);
    const store = newStore();
    const columbia = newClient({ store: () => store });
    await columbia.client.login("columbia", PASSWORD);
    const lines = ["message SEAS acted on", "message SEAS not acted on", "message nobody hello"];
    const positions = lines.map((_, i) => lines.slice(0, i + 1).join("\n").length + 1);
    await columbia.client.message("SEAS", "acted on");
    columbia.client.close();
    store.state!.unanswered = lines.map((line, i) => ({ line, position: positions[i]! }));
    await columbia.client.ended;
    const again = newClient({ store: () => store, port: server.port, session });
    await again.client.login("columbia", PASSWORD);
    await seas.until(() => seas.events.includes("message not acted on"));
    expect(seas.events.filter((line) => line.startsWith("message"))).toEqual([
      "message acted on",
      "message not acted on",
    ]);
    await again.client.online();
    expect(again.recovered).toEqual([
      ["message SEAS acted on", "unknown_outcome"],
      ["message SEAS not acted on", null],
      ["message nobody hello", "unknown_user"],
    ]);
    first.client.close();
  },
);

test("a relative path in XDG_STATE_HOME is ignored", () => {
  const before = process.env.XDG_STATE_HOME;
  try {
    for (const [given, there] of [
      ["/states", "/states/heartline"],
      ["states", join(homedir(), ".local/state/heartline")],
    ]) {
      process.env.XDG_STATE_HOME = given;
      expect(stateFolder()).toBe(there!);
    }
  } finally {
    if (before === undefined) delete process.env.XDG_STATE_HOME;
    else process.env.XDG_STATE_HOME = before;
  }
});

test("a state file is readable by its owner only, and there is one for each user and server", () => {
  const faults: string[] = [];
  const open = (port: number): StateFile =>
    new StateFile(join(folder, "state"), "columbia", "::1", port, (why) => faults.push(why));
  const file = open(6001);
  expect(file.load()).toBeNull();
  const state = { token: "A".repeat(22), received: 5, unanswered: [{ line: "message SEAS größe", position: 20 }] };
  file.save(state);
  expect(file.load()).toEqual(state);
  expect(open(6002).load()).toBeNull();
  const [name] = readdirSync(join(folder, "state"));
  expect(statSync(join(folder, "state", name!)).mode & 0o777).toBe(0o600);
  expect(statSync(join(folder, "state")).mode & 0o777).toBe(0o700);
  expect(readdirSync(join(folder, "state"))).toHaveLength(1);
  rmSync(join(folder, "state"), { recursive: true });
  for (let time = 0; time < 2; time++) file.save(state);
  expect(faults).toHaveLength(1);
});

test("a callback client sends and receives without a lasting connection", async () => {
  const columbia = newClient({ port: server.port, session: "callback" });
  const seas = newClient();
  await columbia.client.login("columbia", PASSWORD);
  await seas.client.login("SEAS", PASSWORD);
  await columbia.until(() => columbia.events.includes("joined"));
  expect(await columbia.client.message("SEAS", "hi")).toBe("sent");
  const texts = Array.from({ length: 300 }, (_, index) => `number ${index}`);
  await Promise.all(texts.map((text) => seas.client.message("columbia", text)));
  await columbia.until(() => columbia.events.length > texts.length);
  expect(columbia.events.slice(1)).toEqual(texts.map((text) => `message ${text}`));
  expect((await columbia.client.online()).names).toEqual(["SEAS"]);
  await columbia.client.logout();
  expect(await columbia.client.ended).toBe("logout");
});

test("a callback client continues after a restart of the server, and not after goodbye replaced", async () => {
  const columbia = newClient({ port: server.port, session: "callback" });
  await columbia.client.login("columbia", PASSWORD);
  const { port } = server;
  await server.stop();
  server = new WireServer({ data: join(folder, "data"), port }, USERS);
  await server.ready();
  await columbia.until(() => columbia.seen.back === 1);
  expect(await columbia.client.message("columbia", "again")).toBe("sent");
  await columbia.until(() => columbia.events.includes("message again"));
  const young = newClient();
  await young.client.login("columbia", PASSWORD);
  expect(await columbia.client.ended).toBe("replaced");
});
