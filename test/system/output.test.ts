import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChatClient } from "heartline/client";
import { PASSWORD, WireServer } from "../support/wire.ts";

const COUNT = 3000;
const root = join(import.meta.dir, "../..");
let server: WireServer;
let folder: string;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "heartline-"));
  server = new WireServer({}, ["columbia", "SEAS"]);
  const seas = new ChatClient({ host: "127.0.0.1", port: server.port });
  await seas.login("SEAS", PASSWORD);
  const padding = "x".repeat(60);
  await Promise.all(Array.from({ length: COUNT }, (_, i) => seas.message("columbia", `number ${i} ${padding}`)));
  await seas.logout();
});

afterEach(async () => {
  await server.stop();
  rmSync(folder, { recursive: true });
});

/** Runs a shell command in the folder, with the program as $CLIENT. */
function shell(line: string, ...args: string[]) {
  const client = [process.execPath, join(root, "src/main.ts"), "chat", "127.0.0.1", String(server.port), ...args];
  return Bun.spawn(["sh", "-c", line], {
    cwd: folder,
    env: {
      PATH: process.env.PATH,
      CLIENT: [...client, "--user", "columbia"].join(" "),
      XDG_STATE_HOME: folder,
      HEARTLINE_PASSWORD: PASSWORD,
    },
    stderr: "pipe",
  });
}

/** The numbers of the complete message lines in a printed text. */
function numbersIn(printed: string): number[] {
  return [...printed.matchAll(/number (\d+) x{60}\n/g)].map(([, number]) => Number(number));
}

const printed = (file: string): number[] => numbersIn(readFileSync(join(folder, file), "latin1"));
const ALL = Array.from({ length: COUNT }, (_, index) => index);
const MODES: [name: string, ...args: string[]][] = [["resumable"], ["callback", "--callback"]];

describe.each(MODES)("a fetch with a %s session", (_name, ...args) => {
  test("into a slow pipe prints every stored message, and the next fetch prints none", async () => {
    const slow = shell('$CLIENT </dev/null | while read -r line; do echo "$line"; done >first', ...args);
    expect(await slow.exited).toBe(0);
    expect(printed("first")).toEqual(ALL);
    expect(await shell("$CLIENT </dev/null >second", ...args).exited).toBe(0);
    expect(printed("second")).toEqual([]);
  }, 30_000);

  test("is continued by the next fetch after the last line that the kernel took, when the reader closes the pipe", async () => {
    await shell("mkfifo pipe").exited;
    const pipe = openSync(join(folder, "pipe"), constants.O_RDONLY | constants.O_NONBLOCK);
    const client = shell("exec $CLIENT </dev/null >pipe", ...args);
    const chunk = Buffer.alloc(65_536);
    let taken = "";
    /** Reads what is in the pipe; returns false when it is empty. */
    const read = (): boolean => {
      let bytes = 0;
      try {
        bytes = readSync(pipe, chunk);
      } catch {}
      taken += chunk.toString("latin1", 0, bytes);
      return bytes > 0;
    };
    while (numbersIn(taken).length < 1000) {
      read();
      await new Promise((resolve) => setImmediate(resolve));
    }
    // While the client is stopped, all that it has written can be read.
    client.kill("SIGSTOP");
    while (!/\) T/.test(readFileSync(`/proc/${client.pid}/stat`, "latin1"))) {}
    while (read()) {}
    closeSync(pipe);
    client.kill("SIGCONT");
    expect(await client.stderr.text()).toBe("");
    expect(await client.exited).toBe(0);
    expect(numbersIn(taken).length).toBeLessThan(COUNT);
    expect(await shell("$CLIENT </dev/null >rest", ...args).exited).toBe(0);
    expect([...numbersIn(taken), ...printed("rest")]).toEqual(ALL);
  }, 30_000);

  test("whose reader takes one line is continued by the next fetch after that line", async () => {
    expect(await shell("$CLIENT </dev/null | head -1 >first", ...args).exited).toBe(0);
    expect(printed("first")).toEqual([0]);
    expect(await shell("$CLIENT </dev/null >rest", ...args).exited).toBe(0);
    const rest = printed("rest");
    expect(rest[0] ?? COUNT).toBeGreaterThan(0);
    expect(rest).toEqual(ALL.slice(rest[0] ?? COUNT));
  }, 30_000);

  test("onto a full disk exits with 3 and a reason, and the next fetch prints everything", async () => {
    const full = shell("$CLIENT </dev/null >/dev/full", ...args);
    expect(await full.stderr.text()).toMatch(/^heartline: cannot write: ENOSPC.*\n$/);
    expect(await full.exited).toBe(3);
    expect(await shell("$CLIENT </dev/null >all", ...args).exited).toBe(0);
    expect(printed("all")).toEqual(ALL);
  }, 30_000);
});

test("a script with a closed standard error prints every message", async () => {
  writeFileSync(join(folder, "commands"), "message nobody hi\nonline\n");
  expect(await shell("$CLIENT <commands >all 2>&-").exited).toBe(4);
  expect(printed("all")).toEqual(ALL);
}, 30_000);

test("a script waits while its output is not read, and SIGTERM ends it without acknowledging the rest", async () => {
  await shell("mkfifo pipe").exited;
  const pipe = openSync(join(folder, "pipe"), constants.O_RDONLY | constants.O_NONBLOCK);
  const client = shell("exec $CLIENT </dev/null >pipe");
  const file = join(folder, "heartline", `columbia%40127.0.0.1%3A${server.port}.json`);
  const received = (): number => {
    try {
      return JSON.parse(readFileSync(file, "utf8")).received;
    } catch {
      return 0;
    }
  };
  // Some lines are printed and saved; the rest does not fit into the pipe, so the client waits.
  while (received() === 0) await new Promise((resolve) => setImmediate(resolve));
  client.kill("SIGTERM");
  await client.exited;
  expect(client.signalCode).toBe("SIGTERM");
  closeSync(pipe);
  expect(await shell("$CLIENT </dev/null >rest").exited).toBe(0);
  const rest = printed("rest");
  expect(rest.length).toBeGreaterThan(1000);
  expect(rest).toEqual(ALL.slice(rest[0]));
}, 30_000);

test("a client that must release its state first waits for its reader, so that no line is printed twice", async () => {
  await shell("mkfifo pipe").exited;
  const pipe = openSync(join(folder, "pipe"), constants.O_RDONLY | constants.O_NONBLOCK);
  const first = shell("exec $CLIENT </dev/null >pipe");
  const file = join(folder, "heartline", `columbia%40127.0.0.1%3A${server.port}.json`);
  while (!existsSync(file)) await new Promise((resolve) => setImmediate(resolve));
  // The first client cannot exit before its reader reads, so the second one gives up.
  const second = shell("$CLIENT </dev/null >second");
  expect(await second.stderr.text()).toContain("does not leave");
  expect(await second.exited).toBe(1);
  const reader = shell("exec cat pipe >first");
  expect(await first.exited).toBe(3);
  expect(await reader.exited).toBe(0);
  closeSync(pipe);
  expect(await shell("$CLIENT </dev/null >rest").exited).toBe(0);
  expect([...printed("first"), ...printed("rest")]).toEqual(ALL);
}, 30_000);
