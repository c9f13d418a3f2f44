import { afterAll, afterEach, expect, spyOn, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sendDatagram } from "../../src/runtime/kernel.ts";
import { ServiceManager, inheritedSockets } from "../../src/runtime/systemd.ts";
import { NotifySocket, hasSockets } from "../support/sockets.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const open: NotifySocket[] = [];

afterEach(() => {
  for (const socket of open.splice(0)) socket.close();
});
afterAll(() => rmSync(folder, { recursive: true }));

function listen(name: string): NotifySocket {
  const socket = new NotifySocket(name);
  open.push(socket);
  return socket;
}

test("sockets are inherited from descriptor 3 on, with their names, and the variables are removed", () => {
  const environment = { LISTEN_PID: "42", LISTEN_FDS: "3", LISTEN_FDNAMES: "plain:tls", OTHER: "1" };
  expect(inheritedSockets(environment, 42)).toEqual([
    { descriptor: 3, name: "plain" },
    { descriptor: 4, name: "tls" },
    { descriptor: 5, name: "" },
  ]);
  expect(environment).toEqual({ OTHER: "1" } as never);
});

const NOT_OURS: Record<string, string>[] = [
  { LISTEN_PID: "43", LISTEN_FDS: "1" },
  { LISTEN_FDS: "1" },
  { LISTEN_PID: "42" },
  { LISTEN_PID: "42", LISTEN_FDS: "-1" },
  { LISTEN_PID: "42", LISTEN_FDS: "99999999" },
];
test.each(NOT_OURS)("no socket is inherited with %j, and the variables are removed", (environment) => {
  const given = { ...environment };
  expect(inheritedSockets(given, 42)).toEqual([]);
  expect(given).toEqual({});
});

test.skipIf(!hasSockets)("notifications go to a path or to an abstract name", async () => {
  for (const name of [join(folder, "notify"), `@heartline-test-${process.pid}`]) {
    const socket = listen(name);
    const environment = { NOTIFY_SOCKET: name };
    new ServiceManager(environment).notify("READY=1", "STATUS=serving");
    expect(await socket.until(/STATUS/)).toEqual(["READY=1", "STATUS=serving"]);
    expect(environment).toEqual({} as never);
  }
});

test.skipIf(!hasSockets)(
  "a notification that does not fit into the full socket is sent later, and none is lost",
  async () => {
    const socket = listen(join(folder, "full"));
    while (sendDatagram(socket.name, "FILL=1"));
    const manager = new ServiceManager({ NOTIFY_SOCKET: socket.name });
    manager.notify("READY=1");
    manager.notify("STOPPING=1");
    const received = await socket.until(/STOPPING/);
    expect(received.slice(-2)).toEqual(["READY=1", "STOPPING=1"]);
  },
);

test.skipIf(!hasSockets)("WATCHDOG=1 is sent at half of WATCHDOG_USEC", async () => {
  const socket = listen(join(folder, "watchdog"));
  const every = spyOn(globalThis, "setInterval");
  new ServiceManager({ NOTIFY_SOCKET: socket.name, WATCHDOG_USEC: "20000", WATCHDOG_PID: String(process.pid) });
  expect(every.mock.calls.map(([, ms]) => ms)).toEqual([10]);
  const [timer] = every.mock.results.map(({ value }) => value as Timer);
  every.mockRestore();
  await socket.until(/^WATCHDOG=1$/);
  await socket.until(/^WATCHDOG=1$/);
  clearInterval(timer);
});

const UNWATCHED: Record<string, string>[] = [
  { WATCHDOG_USEC: "20000", WATCHDOG_PID: "1" },
  { WATCHDOG_USEC: "0" },
  { WATCHDOG_USEC: "soon" },
  {},
];
test.each(UNWATCHED)("no WATCHDOG=1 is sent with %j", (environment) => {
  const every = spyOn(globalThis, "setInterval");
  new ServiceManager({ NOTIFY_SOCKET: join(folder, "none"), ...environment });
  expect(every).not.toHaveBeenCalled();
  every.mockRestore();
});

const WITHOUT_MANAGER: Record<string, string>[] = [
  {},
  { NOTIFY_SOCKET: "" },
  { NOTIFY_SOCKET: "vsock:2:1" },
  { NOTIFY_SOCKET: "/nonexistent/notify" },
];
test.each(WITHOUT_MANAGER)("without a reachable manager notifications do nothing: %j", (environment) => {
  expect(() => new ServiceManager(environment).notify("READY=1")).not.toThrow();
});
