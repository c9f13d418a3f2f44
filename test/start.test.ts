import { afterAll, beforeAll, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { ChatClient } from "heartline/client";
import { Pty } from "./support/pty.ts";

const root = join(import.meta.dir, "..");
let copy: string;

/** The project as a new clone has it: tracked files only, with the packages installed. */
beforeAll(() => {
  copy = mkdtempSync(join(tmpdir(), "heartline-"));
  const tracked = Bun.spawnSync(["git", "ls-files", "-z"], { cwd: root }).stdout.toString().split("\0").filter(Boolean);
  expect(tracked).toContain("package.json");
  for (const file of tracked) {
    mkdirSync(join(copy, dirname(file)), { recursive: true });
    cpSync(join(root, file), join(copy, file));
  }
  symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));
});

afterAll(() => rmSync(copy, { recursive: true, force: true }));

test("the start script runs a server with the sample credentials that one can log in to", async () => {
  // These tests may be run by npm; the variables of its script would count for the server's script.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(npm_|INIT_CWD)/.test(name)));
  const server = Bun.spawn([process.execPath, "run", "start", "--host", "127.0.0.1", "--port", "0"], {
    cwd: copy,
    env,
    stdout: "pipe",
    stderr: "pipe",
  });
  const chunk = await server.stdout.getReader().read();
  const line = new TextDecoder().decode(chunk.value);
  expect(line).toMatch(/^listening on 127\.0\.0\.1:\d+\n$/);
  const { promise: reply, resolve } = Promise.withResolvers<string>();
  const socket = await Bun.connect({
    hostname: "127.0.0.1",
    port: Number(line.trim().split(":").at(-1)),
    socket: { data: (_socket, bytes) => resolve(bytes.toString()) },
  });
  socket.write("login columbia 116bway\n");
  expect(await reply).toMatch(/^ok [\w-]{22} 35\n$/);
  socket.end();
  server.kill("SIGTERM");
  expect(await server.exited).toBe(0);
  const log = await server.stderr.text();
  expect(log).toContain("SAMPLE CREDENTIALS");
  expect(log).toMatch(/join with: \S*bun\S* run client 127\.0\.0\.1 \d+"/);
});

test("Ctrl+C on the terminal of the start script stops the server in good order", async () => {
  const pty = new Pty(["run", "start", "--host", "127.0.0.1", "--port", "0", "--data", ":memory:"], { columns: 120 });
  const lines = await pty.sees("listening on");
  const port = Number(/listening on 127\.0\.0\.1:(\d+)/.exec(lines.join("\n"))![1]);
  const client = new ChatClient({ host: "127.0.0.1", port, session: "plain" });
  await client.login("columbia", "116bway");
  pty.type("\x03");
  expect(await client.ended).toBe("shutdown");
  expect(await pty.exited).toBe(0);
  pty.end();
});

test("the test script checks types and format, and runs the file that it is given", async () => {
  const tests = Bun.spawn([process.execPath, "run", "test", "test/timer-wheel.test.ts"], {
    cwd: copy,
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, log, code] = await Promise.all([tests.stdout.text(), tests.stderr.text(), tests.exited]);
  expect(`${out}${log}`).toMatch(/No type errors[\s\S]* 0 fail\n[\s\S]*across 1 file/);
  expect(code).toBe(0);
}, 60_000);
