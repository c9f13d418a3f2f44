import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { listenAtPath } from "../../src/net/unix-socket.ts";
import { bindDatagramSocket, bindFullSocket, hasUnixSockets } from "../support/unix-sockets.ts";

let folder: string;
let path: string;
const open: (() => void)[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "heartline-"));
  path = join(folder, "socket");
});

afterEach(() => {
  for (const close of open.splice(0)) close();
  rmSync(folder, { recursive: true });
});

function listen(): Promise<string> {
  return listenAtPath(path, 0o600, () => "listening");
}

describe.skipIf(!hasUnixSockets)("a Unix socket that exists already", () => {
  test("is removed when its program has ended", async () => {
    bindFullSocket(path)();
    expect(await listen()).toBe("listening");
    expect(existsSync(path)).toBe(false);
  });

  test("stays when its program accepts no connection because too many wait", async () => {
    open.push(bindFullSocket(path));
    await expect(listen()).rejects.toThrow(`cannot listen on ${path}: another program listens there`);
    expect(statSync(path).isSocket()).toBe(true);
  });

  test("stays when it is a datagram socket of another program", async () => {
    open.push(bindDatagramSocket(path));
    await expect(listen()).rejects.toThrow(`cannot listen on ${path}: another program uses it for something else`);
    expect(statSync(path).isSocket()).toBe(true);
  });
});
