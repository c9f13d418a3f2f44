import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { closeSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChatClient, type ChatError, type ChatEvent } from "../../src/client/client.ts";
import { ServerProcess } from "../support/process.ts";
import { hasSockets, holdPort } from "../support/sockets.ts";

const RESTARTS = 5;
const CONNECTORS = 8;
const LIMIT_MS = 120_000;

if (!hasSockets) console.warn("\n  SKIPPED: restarts with an inherited socket (they need Linux)\n");

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const USERS = join(folder, "users.txt");
writeFileSync(USERS, "alice secret\nbob secret\n");
afterEach(() => ServerProcess.killAll());
afterAll(() => rmSync(folder, { recursive: true }));

/** A server that takes over a listening socket. */
function serve(descriptor: number, data: string): ServerProcess {
  return new ServerProcess({ sockets: [descriptor], environment: {} }, "--credentials", USERS, "--data", data);
}

/** Connects again and again until it is stopped, with one request on each connection. */
class Connector {
  connected = 0;
  readonly failures: string[] = [];
  isStopped = false;
  readonly done: Promise<void>;

  constructor(port: number) {
    this.done = this.#run(port);
  }

  async #run(port: number): Promise<void> {
    while (!this.isStopped) {
      const closed = Promise.withResolvers<void>();
      try {
        const socket = await Bun.connect({
          hostname: "127.0.0.1",
          port,
          socket: { data: (socket) => void socket.end(), end: () => {}, close: () => closed.resolve() },
        });
        socket.write("alive\n");
        this.connected++;
      } catch (error) {
        this.failures.push(String(error));
        continue;
      }
      await closed.promise;
    }
  }
}

async function restarts(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
  const { descriptor, port } = holdPort();
  const start = (): ServerProcess => serve(descriptor, join(folder, signal));
  let server = start();
  await server.port();
  const received: string[] = [];
  const onEvent = (event: ChatEvent): void => {
    if (event.kind === "message" || event.kind === "stored") received.push(event.text);
  };
  const bob = new ChatClient({ host: "127.0.0.1", port, onEvent });
  const alice = new ChatClient({ host: "127.0.0.1", port });
  await Promise.all([bob.login("bob", "secret"), alice.login("alice", "secret")]);
  const connectors = Array.from({ length: CONNECTORS }, () => new Connector(port));
  const acknowledged: string[] = [];
  /** Their replies were lost in a kill: they may have arrived. */
  const uncertain: string[] = [];
  let isOver = false;
  const sending = (async () => {
    for (let i = 0; !isOver; i++) {
      try {
        await alice.message("bob", String(i));
        acknowledged.push(String(i));
      } catch (error) {
        if (signal === "SIGTERM" || (error as ChatError).code !== "unknown_outcome") throw error;
        uncertain.push(String(i));
      }
    }
  })();
  for (let i = 0; i < RESTARTS; i++) {
    const { length } = acknowledged;
    server.kill(signal);
    const code = await server.exits();
    if (signal === "SIGTERM") expect(code).toBe(0);
    server = start();
    await server.port();
    while (acknowledged.length < length + 100) await Bun.sleep(10);
  }
  isOver = true;
  await sending;
  for (const connector of connectors) connector.isStopped = true;
  await Promise.all(connectors.map(({ done }) => done));
  await alice.message("bob", "end");
  while (!received.includes("end")) await Bun.sleep(10);
  await Promise.all([alice.logout(), bob.logout()]);
  server.kill("SIGTERM");
  expect(await server.exits()).toBe(0);
  closeSync(descriptor);
  expect(connectors.flatMap(({ failures }) => failures)).toEqual([]);
  expect(Math.min(...connectors.map(({ connected }) => connected))).toBeGreaterThan(RESTARTS);
  expect(new Set(received).size).toBe(received.length);
  expect(received.filter((text) => !uncertain.includes(text))).toEqual([...acknowledged, "end"]);
}

/** More than the runtime lets wait (511), and fewer than the limits of the kernel and of open files. */
const WAITING = 1000;

describe.skipIf(!hasSockets)("with an inherited socket", () => {
  test(
    "a thousand connections wait while the server does not accept",
    async () => {
      const { descriptor, port } = holdPort();
      const server = serve(descriptor, ":memory:");
      await server.port();
      server.kill("SIGSTOP");
      const socket = { data: () => {} };
      const connecting = Array.from({ length: WAITING }, () => Bun.connect({ hostname: "127.0.0.1", port, socket }));
      for (const each of await Promise.all(connecting)) each.terminate();
      closeSync(descriptor);
    },
    LIMIT_MS,
  );

  test(
    "five restarts under load refuse no connection, and each acknowledged message arrives once",
    () => restarts("SIGTERM"),
    LIMIT_MS,
  );

  test(
    "five kills under load refuse no connection, and each acknowledged message arrives once",
    () => restarts("SIGKILL"),
    LIMIT_MS,
  );
});
