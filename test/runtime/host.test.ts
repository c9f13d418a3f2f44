import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { ChatClient, type ChatEvent } from "heartline/client";
import {
  HostError,
  formatAddress,
  isThisMachine,
  nameInCertificate,
  readHost,
  withZone,
} from "../../src/runtime/host.ts";
import { ServerProcess, run, runWith } from "../support/process.ts";
import { PASSWORD, WireServer } from "../support/wire.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-"));

afterAll(() => rmSync(folder, { recursive: true }));

describe("a host as a person writes it", () => {
  test.each([
    ["localhost", "localhost"],
    ["LOCALHOST", "localhost"],
    ["localhost.", "localhost"],
    ["Chat.Example.", "chat.example."],
    ["my_host", "my_host"],
    ["bücher.example", "xn--bcher-kva.example"],
    ["127.0.0.1", "127.0.0.1"],
    ["127.1", "127.0.0.1"],
    ["::1", "::1"],
    ["[::1]", "::1"],
    ["0:0:0:0:0:0:0:1", "::1"],
    ["2001:DB8::1", "2001:db8::1"],
    ["::ffff:127.0.0.1", "127.0.0.1"],
    ["[::FFFF:192.0.2.1]", "192.0.2.1"],
    ["fe80::1%eth0", "fe80::1%eth0"],
    ["[FE80::1%Eth0]", "fe80::1%Eth0"],
  ])("%s is normalized to %s", (text, host) => {
    expect(readHost(text)).toBe(host);
    expect(readHost(host)).toBe(host);
  });

  test.each(["", " ", "a b", "[a]", "[::1", "[::1]:6001", "a:6001", "a/b", "me@a", "x%41", "\x1b[2J", "256.1.1.1"])(
    "%p is refused",
    (text) => expect(() => readHost(text)).toThrow(HostError),
  );

  test("is looked for in a certificate without its zone and its last dot", () => {
    expect(nameInCertificate("fe80::1%eth0")).toBe("fe80::1");
    expect(nameInCertificate("chat.example.")).toBe("chat.example");
  });

  test("is printed in brackets before a port when it is IPv6", () => {
    expect(formatAddress("::1", 6001)).toBe("[::1]:6001");
    expect(formatAddress("127.0.0.1", 6001)).toBe("127.0.0.1:6001");
  });
});

test("isThisMachine is true for each address of this machine, and for no other", () => {
  for (const [local, remote] of [
    ["127.0.0.1", "127.0.0.1"],
    ["127.0.0.1", "127.8.8.8"],
    ["::1", "::1"],
    ["192.0.2.2", "192.0.2.2"],
  ] as const) {
    expect(isThisMachine(local, remote)).toBe(true);
  }
  expect(isThisMachine("192.0.2.2", "192.0.2.3")).toBe(false);
  expect(isThisMachine("2001:db8::1", "2001:db8::2")).toBe(false);
});

/** A link-local address of this machine, and its interface. */
const linkLocal = Object.entries(networkInterfaces()).flatMap(([zone, addresses = []]) =>
  addresses.filter(({ address }) => address.startsWith("fe80:")).map(({ address }) => ({ zone, address })),
)[0];
if (linkLocal === undefined) console.log("SKIPPED: link-local addresses (this machine has none)");

describe.skipIf(linkLocal === undefined)("a link-local address", () => {
  const { zone = "", address = "" } = linkLocal ?? {};

  test("gets the zone of the connection over which it arrived; any other address is unchanged", () => {
    const connection = { localAddress: address };
    expect(withZone("fe80::5", connection)).toBe(`fe80::5%${zone}`);
    for (const other of ["fe80::5%lo", "2001:db8::5", "192.0.2.5", "fd00::5"]) {
      expect(withZone(other, connection)).toBe(other);
    }
    expect(withZone("fe80::5", { localAddress: "192.0.2.250" })).toBe("fe80::5");
  });

  test.each(["resumable", "callback"] as const)("works for %s clients, also for private chats", async (session) => {
    const server = new WireServer({ host: "::" }, ["columbia", "SEAS"]);
    const clients: ChatClient[] = [];
    const enter = async (
      user: string,
      onEvent: (event: ChatEvent, client: ChatClient) => void,
    ): Promise<ChatClient> => {
      const at = { host: `${address}%${zone}`, port: server.port, session, listenPort: 0 };
      const client: ChatClient = new ChatClient({ ...at, onEvent: (event) => onEvent(event, client) });
      clients.push(client);
      await client.login(user, PASSWORD);
      return client;
    };
    const received = Promise.withResolvers<string>();
    await enter("SEAS", (event, client) => {
      if (event.kind === "asked") void client.answer(event.user, true);
      if (event.kind === "private") received.resolve(event.text);
    });
    const agreed = Promise.withResolvers<ChatEvent>();
    const columbia = await enter("columbia", (event) => event.kind === "agreed" && agreed.resolve(event));
    await columbia.getAddress("SEAS");
    await columbia.private("SEAS", "psst");
    expect(await received.promise).toBe("psst");
    expect(await agreed.promise).toMatchObject({ host: address });
    for (const client of clients) client.close();
    await server.stop();
  });
});

test.each(["::1", "localhost"])("a callback session works with a server at %s over IPv6", async (host) => {
  const server = new WireServer({ host: "::1" }, ["columbia"]);
  const received = Promise.withResolvers<ChatEvent>();
  const client = new ChatClient({ host, port: server.port, session: "callback", onEvent: received.resolve });
  await client.login("columbia", PASSWORD);
  await client.message("columbia", "hi");
  expect(await received.promise).toEqual({ kind: "message", from: "columbia", text: "hi" });
  await client.logout();
  await server.stop();
});

test.each([
  ["fe80::1", "a link-local address needs its interface"],
  ["fe80::1%nosuch0", "there is no such interface"],
])("a server that cannot listen at %s prints the reason", async (host, why) => {
  const { err, code } = await run("src/main.ts", "serve", "--port", "0", "--data", ":memory:", "--host", host);
  expect({ err, code }).toEqual({ err: expect.stringContaining(`cannot listen on [${host}]:0: ${why}`), code: 1 });
});

/** Compiles a library for LD_PRELOAD that simulates a kernel without IPv6; null without a C compiler. */
function libraryWithoutIpv6(): string | null {
  const cc = Bun.which("cc");
  if (cc === null || process.platform !== "linux") return null;
  const source = `
    #include <errno.h>
    #include <sys/socket.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    int socket(int domain, int type, int protocol) {
      if (domain == AF_INET6) { errno = EAFNOSUPPORT; return -1; }
      return syscall(SYS_socket, domain, type, protocol);
    }`;
  const library = join(folder, "no-ipv6.so");
  const { exitCode } = Bun.spawnSync([cc, "-shared", "-fPIC", "-xc", "-", "-o", library], {
    stdin: Buffer.from(source),
  });
  return exitCode === 0 ? library : null;
}

const library = libraryWithoutIpv6();
if (library === null) console.log("SKIPPED: a kernel without IPv6 (there is no cc to build one)");

describe.skipIf(library === null)("on a kernel without IPv6", () => {
  const env = { LD_PRELOAD: library ?? "", XDG_STATE_HOME: folder, HEARTLINE_PASSWORD: PASSWORD };

  test.each([[[]], [["--callback"]]])("a client listens on 0.0.0.0, with options %p", async (options) => {
    const server = new WireServer({}, ["columbia"]);
    const args = ["src/main.ts", "chat", "127.0.0.1", String(server.port), "--user", "columbia", ...options];
    expect(await runWith({ input: "online\n", env }, ...args)).toEqual({
      out: "nobody else is here\n",
      err: "",
      code: 0,
    });
    await server.stop();
  });

  test("a client that cannot reach ::1 prints the reason", async () => {
    expect(await runWith({ input: "", env }, "src/main.ts", "chat", "::1", "6001", "--user", "columbia")).toEqual({
      out: "",
      err: "heartline: cannot reach [::1]:6001: this machine has no IPv6\n",
      code: 1,
    });
  });

  test("a server with --host :: listens on 0.0.0.0, and with --host ::1 prints why it cannot", async () => {
    const args = ["--port", "0", "--data", ":memory:", "--host"];
    process.env.LD_PRELOAD = env.LD_PRELOAD;
    const server = new ServerProcess(...args, "::");
    delete process.env.LD_PRELOAD;
    expect(await server.port()).toBeGreaterThan(0);
    expect(server.stdout).toStartWith("listening on 0.0.0.0:");
    server.kill("SIGTERM");
    expect(await server.exits()).toBe(0);
    expect(await runWith({ env }, "src/main.ts", "serve", ...args, "[::1]")).toMatchObject({
      err: expect.stringMatching(/heartline: cannot listen on \[::1\]:0: this machine has no IPv6\n$/),
      code: 1,
    });
  });
});
