import type { TCPSocketListener } from "bun";
import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TLSSocket, createServer } from "node:tls";
import { ChatClient, type ChatClientOptions } from "heartline/client";
import { Proxy } from "../system/chaos/fault-proxy.ts";
import { REPLY_TIMEOUT_MS } from "../../src/client/retry.ts";
import { type Certificate, makeCertificate, writeCertificate } from "../support/certificate.ts";
import { runWith } from "../support/process.ts";
import { Pty } from "../support/pty.ts";
import { openssl, python, tellSkipped } from "../support/tls-programs.ts";
import { PASSWORD, WireServer } from "../support/wire.ts";

/** After an invalid command line. */
const HINT = `(${process.execPath} src/main.ts help chat lists the options)`;

const USERS = ["columbia", "SEAS"];
const DAY_MS = 24 * 3600 * 1000;
const authority = await makeCertificate(["Columbia University"]);
const good = await makeCertificate(["localhost", "127.0.0.1", "::1"], { issuer: authority });
const selfSigned = await makeCertificate(["localhost"]);
const unknown = await makeCertificate(["Barnard College"]);

let folder: string;
let server: WireServer;
let front: TlsProxy;
const clients: ChatClient[] = [];
const listeners: TCPSocketListener[] = [];
const ptys: Pty[] = [];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "heartline-"));
  writeFileSync(join(folder, "ca.pem"), authority.cert);
  server = new WireServer({}, USERS);
  front = await TlsProxy.open(server.port);
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  for (const pty of ptys.splice(0)) pty.end();
  for (const listener of listeners.splice(0)) listener.stop(true);
  front.close();
  await server.stop();
  rmSync(folder, { recursive: true });
});

/** Adds TLS to a server without TLS; keeps the bytes that clients send. */
class TlsProxy {
  readonly port: number;
  received = "";
  onData = (): void => {};
  #connections = 0;
  #connected = (): void => {};
  readonly #server = createServer(good);
  readonly #sockets = new Set<TLSSocket>();

  static async open(port: number): Promise<TlsProxy> {
    const listening = Promise.withResolvers<void>();
    const front = new TlsProxy(port, listening.resolve);
    await listening.promise;
    return front;
  }

  private constructor(port: number, listening: () => void) {
    this.#server.on("secureConnection", (socket) => {
      this.#sockets.add(socket);
      const inner = connect(port, "127.0.0.1");
      socket.on("data", (chunk: Buffer) => {
        this.received += chunk.toString("latin1");
        this.onData();
      });
      socket.pipe(inner).pipe(socket);
      socket.on("error", () => {});
      inner.on("error", () => {});
      socket.on("close", () => inner.destroy());
      inner.on("close", () => socket.end());
    });
    this.#server.on("tlsClientError", () => {});
    this.#server.on("connection", () => {
      this.#connections++;
      this.#connected();
    });
    this.#server.listen(0, "127.0.0.1", listening);
    this.port = (this.#server.address() as AddressInfo).port;
  }

  /** New connections get this certificate. */
  show(certificate: Certificate): void {
    this.#server.setSecureContext(certificate);
  }

  /** Resolves after `count` more connections, accepted by the client or not. */
  async connections(count: number): Promise<void> {
    const until = this.#connections + count;
    while (this.#connections < until) await new Promise<void>((resolve) => (this.#connected = resolve));
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
  }

  close(): void {
    this.#server.close();
    this.cut();
  }
}

/** A client that trusts the authority, and its events, one line each. */
function newClient(options: Partial<ChatClientOptions> = {}) {
  const lines: string[] = [];
  let changed = (): void => {};
  const note = (line: string): void => {
    lines.push(line);
    changed();
  };
  const client = new ChatClient({
    host: "localhost",
    port: front.port,
    tls: { ca: authority.cert },
    onEvent: (event) => note("text" in event ? `${event.kind} ${event.text}` : event.kind),
    onUntrusted: ({ detail }) => note(detail),
    ...options,
  });
  clients.push(client);
  const sees = async (line: string): Promise<void> => {
    while (!lines.includes(line)) await new Promise<void>((resolve) => (changed = resolve));
  };
  return { client, lines, sees };
}

/** A listener without TLS that has only these handlers. */
function listenPlain(handlers: Bun.SocketHandler<undefined>): number {
  const socket = { data() {}, ...handlers };
  const listener = Bun.listen<undefined>({ hostname: "127.0.0.1", port: 0, socket });
  listeners.push(listener);
  return listener.port;
}

/** Runs the client in a pipe. */
function runClient(host: string, port: number, args: string[], input = "", env: Record<string, string> = {}) {
  const user = { XDG_STATE_HOME: folder, HEARTLINE_PASSWORD: PASSWORD, ...env };
  const line = ["src/main.ts", "chat", host, String(port), "--user", "columbia", ...args];
  return runWith({ input, env: user }, ...line);
}

/** Options that trust the authority. */
const trusting = (): string[] => ["--tls", "--ca", join(folder, "ca.pem")];

describe("with a valid certificate", () => {
  test.each(["localhost", "127.0.0.1"])("two clients chat at %s, also privately", async (host) => {
    const columbia = newClient({ host, listenPort: 0 });
    const seas = newClient({ host, listenPort: 0, session: "plain" });
    await columbia.client.login("columbia", PASSWORD);
    await seas.client.login("SEAS", PASSWORD);
    expect(await seas.client.message("columbia", "größe")).toBe("sent");
    await columbia.sees("message größe");
    await columbia.client.getAddress("SEAS");
    await seas.sees("asked");
    await seas.client.answer("columbia", true);
    await columbia.client.private("SEAS", "psst");
    await seas.sees("private psst");
    await columbia.client.logout();
    expect(await columbia.client.ended).toBe("logout");
    expect(front.received).toContain(`login columbia ${PASSWORD}`);
  });

  test("a session continues after its connections are cut: no message is lost or arrives twice", async () => {
    const { client, lines, sees } = newClient();
    await client.login("columbia", PASSWORD);
    const { client: seas } = newClient({ port: server.port, tls: false });
    await seas.login("SEAS", PASSWORD);
    const texts = Array.from({ length: 100 }, (_, index) => `number ${index}`);
    for (const [index, text] of texts.entries()) {
      await seas.message("columbia", text);
      if (index % 40 === 20) front.cut();
    }
    await sees("message number 99");
    expect(lines.filter((line) => line.startsWith("message"))).toEqual(texts.map((text) => `message ${text}`));
    expect(front.received).toMatch(/^resume \S+ \d+$/m);
  });

  test("the terminal client chats and exits with 0", async () => {
    const input = "message SEAS hi\nmessage columbia me\n";
    expect(await runClient("127.0.0.1", front.port, trusting(), input)).toEqual({
      out: "stored for SEAS; it is delivered when SEAS is here\ncolumbia: me\nsent to columbia\n",
      err: "",
      code: 0,
    });
  });
});

test.each(["[::1]", "::1", "LOCALHOST", "localhost.", "127.1", "::ffff:127.0.0.1"])(
  "the certificate is checked for the normalized form of %s",
  async (host) => {
    const files = writeCertificate(folder, good);
    const encrypted = new WireServer({ host: "::", tls: { ...files, port: 0 } }, USERS);
    const at = [host, String(encrypted.tlsPort), "--user", "columbia", ...trusting()];
    const env = { XDG_STATE_HOME: folder, HEARTLINE_PASSWORD: PASSWORD };
    expect(await runWith({ input: "online\n", env }, "src/main.ts", "chat", ...at)).toEqual({
      out: "nobody else is here\n",
      err: "",
      code: 0,
    });
    await encrypted.stop();
  },
);

const UNKNOWN = /the certificate there is not signed by an authority in --ca \(.*\)/;

describe("an untrusted server receives nothing, and the client prints the reason and exits with 1:", () => {
  const now = Date.now();
  const [past, yesterday] = [new Date(now - 2 * DAY_MS), new Date(now - DAY_MS)];
  const [tomorrow, future] = [new Date(now + DAY_MS), new Date(now + 2 * DAY_MS)];
  const day = (date: Date): string => date.toISOString().slice(0, 10);
  const issuer = authority;

  test.each<[string, Promise<Certificate>, string | RegExp]>([
    ["self-signed", makeCertificate(["localhost"]), UNKNOWN],
    ["an unknown authority", makeCertificate(["localhost"], { issuer: unknown }), UNKNOWN],
    [
      "another name",
      makeCertificate(["chat.example", "10.0.0.1"], { issuer }),
      "the certificate there is for chat.example, 10.0.0.1, not for localhost",
    ],
    ["no name", makeCertificate([], { issuer }), "the certificate there is for nobody, not for localhost"],
    [
      "expired",
      makeCertificate(["localhost"], { issuer, notBefore: past, notAfter: yesterday }),
      `the certificate there expired on ${day(yesterday)}`,
    ],
    [
      "not yet valid",
      makeCertificate(["localhost"], { issuer, notBefore: tomorrow, notAfter: future }),
      `the certificate there is not valid before ${day(tomorrow)}`,
    ],
  ])("%s", async (_what, certificate, words) => {
    front.show(await certificate);
    // The runtime accepts any certificate with this variable; the client does not.
    const { out, err, code } = await runClient("localhost", front.port, trusting(), "message SEAS hi\n", {
      NODE_TLS_REJECT_UNAUTHORIZED: "0",
    });
    const [, why = err] = new RegExp(`^heartline: cannot reach localhost:${front.port}: (.*)\n$`).exec(err) ?? [];
    expect(why).toMatch(words);
    expect({ out, code, received: front.received }).toEqual({ out: "", code: 1, received: "" });
  });

  test("self-signed, without --ca", async () => {
    front.show(await makeCertificate(["localhost"]));
    const { err } = await runClient("localhost", front.port, ["--tls"], "");
    expect(err).toMatch(
      /the certificate there is not signed by a trusted authority \(.*\); trust it with --ca <file>\n$/,
    );
  });

  test("an expired authority", async () => {
    const old = await makeCertificate(["Old authority"], { notBefore: past, notAfter: yesterday });
    front.show(await makeCertificate(["localhost"], { issuer: old }));
    const { client } = newClient({ tls: { ca: old.cert } });
    await expect(client.connect()).rejects.toMatchObject({
      code: "untrusted",
      detail: "the authority of the certificate there has expired",
    });
  });

  test("without --ca only public authorities are trusted, with it only those of the file", async () => {
    const { client } = newClient({ tls: true });
    await expect(client.login("columbia", PASSWORD)).rejects.toMatchObject({ code: "untrusted" });
    front.show(selfSigned);
    const { client: trusting } = newClient({ tls: { ca: `${authority.cert}\n${selfSigned.cert}` } });
    await trusting.login("columbia", PASSWORD);
    expect(front.received).toStartWith("login");
  });
});

describe("a server whose certificate becomes invalid", () => {
  test("is tried again and reported once per reason, until its certificate is valid again", async () => {
    const { client, lines, sees } = newClient();
    await client.login("columbia", PASSWORD);
    front.show(selfSigned);
    front.cut();
    await front.connections(2);
    const before = front.received;
    front.show(await makeCertificate(["chat.example"], { issuer: authority }));
    await sees("the certificate there is for chat.example, not for localhost");
    expect(front.received).toBe(before);
    front.show(good);
    await sees("back");
    expect(await client.message("columbia", "again")).toBe("sent");
    expect(lines.filter((line) => UNKNOWN.test(line))).toHaveLength(1);
    expect(lines.filter((line) => line === "lost")).toHaveLength(1);
  });

  test("is reported once on the screen, and the prompt returns with the connection", async () => {
    const args = ["src/main.ts", "chat", "localhost", String(front.port), "--user", "columbia", ...trusting()];
    const pty = new Pty(args, { columns: 120, env: { XDG_STATE_HOME: folder, HEARTLINE_PASSWORD: PASSWORD } });
    ptys.push(pty);
    await pty.until((lines) => lines.at(-1) === ">");
    front.show(selfSigned);
    front.cut();
    await pty.sees("cannot reconnect: the certificate there is not signed by an authority in --ca");
    await pty.until((lines) => lines.at(-1) === "(lost) >");
    front.show(good);
    await pty.until((lines) => lines.at(-1) === ">");
    expect(pty.lines.filter((line) => line.includes("cannot reconnect"))).toHaveLength(1);
  });

  test("is reported once on stderr of a script, which continues with the connection", async () => {
    front.onData = () => {
      if (!front.received.includes("message SEAS hi")) return;
      front.onData = () => {};
      front.show(selfSigned);
      front.cut();
      void front.connections(2).then(() => front.show(good));
    };
    const { out, err, code } = await runClient("localhost", front.port, trusting(), "message SEAS hi\n");
    expect({ out, code }).toEqual({ out: "stored for SEAS; it is delivered when SEAS is here\n", code: 0 });
    expect(err).toMatch(new RegExp(`^cannot reconnect: ${UNKNOWN.source}; trying again\n$`));
  });
});

describe("a failed TLS handshake", () => {
  test("with a server without TLS is reported as that", async () => {
    const port = listenPlain({ data: (socket) => void socket.write("err unknown_command\n") });
    expect(await runClient("127.0.0.1", port, trusting())).toEqual({
      out: "",
      err: `heartline: cannot reach 127.0.0.1:${port}: there is no TLS at that port\n`,
      code: 1,
    });
  });

  test.each<[string, Bun.SocketHandler<undefined>]>([
    ["closes at once", { open: (socket) => void socket.end() }],
    ["resets at once", { open: (socket) => void socket.terminate() }],
    ["closes in the middle", { data: (socket) => void socket.end() }],
    ["resets in the middle", { data: (socket) => void socket.terminate() }],
  ])("with a server that %s is reported with a hint", async (_what, handlers) => {
    const { client } = newClient({ host: "127.0.0.1", port: listenPlain(handlers) });
    await expect(client.connect()).rejects.toMatchObject({
      code: "closed",
      detail: "the connection was closed at once; perhaps there is no TLS at that port",
    });
  });

  test("with a server that never answers ends after 10 seconds, and the server receives only TLS", async () => {
    const [received, closed] = [Promise.withResolvers<Buffer>(), Promise.withResolvers<void>()];
    const port = listenPlain({ data: (_socket, chunk) => received.resolve(chunk), close: () => closed.resolve() });
    jest.useFakeTimers();
    try {
      const { client } = newClient({ host: "127.0.0.1", port });
      const login = client.login("columbia", PASSWORD);
      expect((await received.promise)[0]).toBe(0x16);
      jest.advanceTimersByTime(REPLY_TIMEOUT_MS);
      await expect(login).rejects.toMatchObject({
        code: "closed",
        detail: "no reply within 10 seconds; perhaps there is no TLS at that port",
      });
      await closed.promise;
    } finally {
      jest.useRealTimers();
    }
  });
});

describe("without --tls", () => {
  test.each(["", "--callback"])("the error at a TLS port proposes --tls %s", async (option) => {
    expect(await runClient("127.0.0.1", front.port, option === "" ? [] : [option])).toEqual({
      out: "",
      err: "heartline: the server speaks TLS at that port: try --tls\n",
      code: 1,
    });
  });

  test("the error proposes --tls also when the server closes without a reply", async () => {
    const port = listenPlain({ data: (socket) => void socket.end() });
    const { err, code } = await runClient("127.0.0.1", port, []);
    expect(err).toBe("heartline: the server closed the connection; if it speaks TLS, try --tls\n");
    expect(code).toBe(1);
  });

  test("a client keeps reconnecting while its server speaks TLS, and succeeds when it does not", async () => {
    const proxy = new Proxy(server.port);
    const { client, lines, sees } = newClient({ host: "127.0.0.1", port: proxy.port, tls: false });
    await client.login("columbia", PASSWORD);
    proxy.moveTo(front.port);
    proxy.cut();
    await front.connections(1);
    proxy.moveTo(server.port);
    await sees("back");
    expect(lines).toEqual(["lost", "back"]);
    proxy.stop();
  });

  /** Makes the client treat this machine as another one. */
  function elsewhere(): Record<string, string> {
    const file = join(folder, "elsewhere.ts");
    const client = join(import.meta.dir, "../../src/client/client.ts");
    writeFileSync(
      file,
      `import { ChatClient } from ${JSON.stringify(client)};
       Object.defineProperty(ChatClient.prototype, "isThisMachine", { get: () => false });`,
    );
    return { BUN_OPTIONS: `--preload ${file}` };
  }

  test("a script prints a warning before it sends a password to another machine", async () => {
    const warning = "without --tls, others on the network to 127.0.0.1 can read your password and your messages\n";
    for (const options of [[], ["--callback"]]) {
      const { err, code } = await runClient("127.0.0.1", server.port, options, "", elsewhere());
      expect({ err, code }).toEqual({ err: warning, code: 0 });
    }
    expect(await runClient("127.0.0.1", front.port, trusting(), "", elsewhere())).toMatchObject({ err: "", code: 0 });
  });

  test.each(["127.0.0.1", "localhost", "LOCALHOST", "localhost.", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0"])(
    "there is no warning when the host is this machine, written as %s",
    async (host) => expect(await runClient(host, server.port, [])).toEqual({ out: "", err: "", code: 0 }),
  );

  test("on a terminal the warning comes before the question for the name", async () => {
    const pty = new Pty(["src/main.ts", "chat", "127.0.0.1", String(server.port)], { columns: 120, env: elsewhere() });
    ptys.push(pty);
    const lines = await pty.until((lines) => lines.at(-1) === "Name:");
    expect(lines[0]).toBe("without --tls, others on the network to 127.0.0.1 can read your password and your messages");
  });
});

describe("the command line", () => {
  const call = (...args: string[]): ReturnType<typeof runClient> => runClient("127.0.0.1", front.port, args);

  test("is invalid with --ca but without --tls, and with --tls and --callback", async () => {
    for (const args of [
      ["--ca", join(folder, "ca.pem")],
      ["--tls", "--callback"],
    ]) {
      expect(await call(...args)).toMatchObject({ err: expect.stringMatching(/^heartline: --.*\n$/), code: 2 });
    }
  });

  test("is invalid when the file of --ca has more than 16 MiB", async () => {
    const err = `heartline: cannot read --ca /dev/zero: it has more than 16777216 bytes ${HINT}\n`;
    expect(await call("--tls", "--ca", "/dev/zero")).toEqual({ out: "", err, code: 2 });
  });

  test("is invalid when the file of --ca is missing or has no certificate", async () => {
    const file = join(folder, "x.pem");
    const missing = `heartline: cannot read --ca ${file}: there is no such file ${HINT}\n`;
    expect(await call("--tls", "--ca", file)).toEqual({ out: "", err: missing, code: 2 });
    const damaged = authority.cert.replace(/\n.*\n/, "\n");
    for (const text of ["", "garbage", authority.key, damaged]) {
      writeFileSync(file, text);
      expect(await call("--tls", "--ca", file)).toEqual({
        out: "",
        err: `heartline: --ca ${file}: the file contains no PEM certificate ${HINT}\n`,
        code: 2,
      });
    }
    expect(front.received).toBe("");
  });
});

test("a callback session over TLS is refused, since calls of the server are plain TCP", () => {
  expect(() => newClient({ session: "callback" })).toThrow("bad_request");
});

test("the text of a server reaches stderr without control characters", async () => {
  const port = listenPlain({ data: (socket) => void socket.end("err odd \x1b[2Jgone\n") });
  expect(await runClient("127.0.0.1", port, [])).toMatchObject({
    err: "heartline: [2Jgone\n",
    code: 1,
  });
});

const REPLY = "ok AAAAAAAAAAAAAAAAAAAAAA 35\n";
/** A TLS server with the certificate file of its argument that sends REPLY to every line. */
const PYTHON = `
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
for line in connection.makefile("rb"):
    connection.sendall(${JSON.stringify(REPLY)}.encode())
`;

describe("other implementations of TLS", () => {
  tellSkipped("client");
  const programs: Bun.Subprocess[] = [];

  afterEach(() => {
    for (const program of programs.splice(0)) program.kill();
  });

  /** Starts a TLS server that prints what it receives, and sends replies through it; returns its port. */
  function start(...command: string[]): Promise<number> {
    const file = join(folder, "server.pem");
    writeFileSync(file, good.cert + "\n" + good.key);
    const program = Bun.spawn([...command, file], { stdin: "pipe", stdout: "pipe", stderr: "ignore" });
    programs.push(program);
    const port = Promise.withResolvers<number>();
    const answer = async (): Promise<void> => {
      let printed = "";
      for await (const chunk of program.stdout) {
        printed += Buffer.from(chunk).toString("latin1");
        const found = /^(?:ACCEPT .*:)?(\d+)\n/m.exec(printed);
        if (found !== null) port.resolve(Number(found[1]));
        printed = printed.replace(/^(login|message|logout).*\n/gm, () => {
          program.stdin.write(REPLY);
          program.stdin.flush();
          return "";
        });
      }
    };
    void answer().then(() => port.reject(new Error("the program ended")));
    return port.promise;
  }

  function startOpenssl(version: string): Promise<number> {
    const weak = ["-cipher", "ALL:@SECLEVEL=0"];
    return start(openssl!, "s_server", "-accept", "127.0.0.1:0", ...weak, `-${version}`, "-cert");
  }

  async function chats(port: number): Promise<void> {
    const { client } = newClient({ host: "127.0.0.1", port });
    await client.login("columbia", PASSWORD);
    expect(await client.message("SEAS", "hi")).toBe("stored");
    await client.logout();
    expect(await client.ended).toBe("logout");
  }

  test.skipIf(openssl === null).each(["tls1_3", "tls1_2"])("a client chats with openssl over %s", async (version) => {
    await chats(await startOpenssl(version));
  });

  test.skipIf(openssl === null)("openssl below TLS 1.2 is refused", async () => {
    const { client } = newClient({ host: "127.0.0.1", port: await startOpenssl("tls1_1") });
    await expect(client.connect()).rejects.toMatchObject({
      code: "closed",
      detail: "the TLS handshake failed: TLSV1_ALERT_PROTOCOL_VERSION",
    });
  });

  test.skipIf(python === null)("a client chats with Python", async () => {
    await chats(await start(python!, "-c", PYTHON));
  });
});
