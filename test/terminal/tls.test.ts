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

const USERS = ["columbia", "SEAS"];
const DAY_MS = 24 * 3600 * 1000;
const authority = await makeCertificate(["Columbia University"]);
const good = await makeCertificate(["localhost", "127.0.0.1", "::1"], { issuer: authority });
const selfSigned = await makeCertificate(["localhost"]);
const unknown = await makeCertificate(["Barnard College"]);

let folder: string;
let server: WireServer;
let front: Front;
const clients: ChatClient[] = [];
const listeners: TCPSocketListener[] = [];
const ptys: Pty[] = [];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "heartline-"));
  writeFileSync(join(folder, "ca.pem"), authority.cert);
  server = new WireServer({}, USERS);
  front = await Front.open(server.port);
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  for (const pty of ptys.splice(0)) pty.end();
  for (const listener of listeners.splice(0)) listener.stop(true);
  front.close();
  await server.stop();
  rmSync(folder, { recursive: true });
});

/** TLS before a server that has none; what clients say is kept as it goes by. */
class Front {
  readonly port: number;
  heard = "";
  onHeard = (): void => {};
  #calls = 0;
  #called = (): void => {};
  readonly #server = createServer(good);
  readonly #sockets = new Set<TLSSocket>();

  static async open(port: number): Promise<Front> {
    const listening = Promise.withResolvers<void>();
    const front = new Front(port, listening.resolve);
    await listening.promise;
    return front;
  }

  private constructor(port: number, listening: () => void) {
    this.#server.on("secureConnection", (socket) => {
      this.#sockets.add(socket);
      const inner = connect(port, "127.0.0.1");
      socket.on("data", (chunk: Buffer) => {
        this.heard += chunk.toString("latin1");
        this.onHeard();
      });
      socket.pipe(inner).pipe(socket);
      socket.on("error", () => {});
      inner.on("error", () => {});
      socket.on("close", () => inner.destroy());
      inner.on("close", () => socket.end());
    });
    this.#server.on("tlsClientError", () => {});
    this.#server.on("connection", () => {
      this.#calls++;
      this.#called();
    });
    this.#server.listen(0, "127.0.0.1", listening);
    this.port = (this.#server.address() as AddressInfo).port;
  }

  /** What it shows to those who connect from now on. */
  show(certificate: Certificate): void {
    this.#server.setSecureContext(certificate);
  }

  /** So many more have connected, whatever came of it. */
  async isCalled(times: number): Promise<void> {
    const until = this.#calls + times;
    while (this.#calls < until) await new Promise<void>((resolve) => (this.#called = resolve));
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

/** A client that trusts the authority, and what it hears, one line each. */
function newClient(options: Partial<ChatClientOptions> = {}) {
  const heard: string[] = [];
  let changed = (): void => {};
  const note = (line: string): void => {
    heard.push(line);
    changed();
  };
  const client = new ChatClient({
    host: "localhost",
    port: front.port,
    tls: { ca: authority.cert },
    onEvent: (event) => note("text" in event ? `${event.kind} ${event.text}` : event.kind),
    onLost: () => note("lost"),
    onBack: () => note("back"),
    onUntrusted: ({ detail }) => note(detail),
    ...options,
  });
  clients.push(client);
  const hears = async (line: string): Promise<void> => {
    while (!heard.includes(line)) await new Promise<void>((resolve) => (changed = resolve));
  };
  return { client, heard, hears };
}

/** Somebody who listens without TLS; whatever the handlers do not say is left undone. */
function listenPlain(handlers: Bun.SocketHandler<undefined>): number {
  const socket = { data() {}, ...handlers };
  const listener = Bun.listen<undefined>({ hostname: "127.0.0.1", port: 0, socket });
  listeners.push(listener);
  return listener.port;
}

/** The program in a pipe. */
function runClient(host: string, port: number, args: string[], input = "", env: Record<string, string> = {}) {
  const user = { XDG_STATE_HOME: folder, HEARTLINE_PASSWORD: PASSWORD, ...env };
  const line = ["src/main.ts", "chat", host, String(port), "--user", "columbia", ...args];
  return runWith({ input, env: user }, ...line);
}

/** The options of who trusts the authority. */
const trusting = (): string[] => ["--tls", "--ca", join(folder, "ca.pem")];

describe("with a certificate that fits", () => {
  test.each(["localhost", "127.0.0.1"])("people chat at %s, and privately from machine to machine", async (host) => {
    const columbia = newClient({ host, listenPort: 0 });
    const seas = newClient({ host, listenPort: 0, session: "plain" });
    await columbia.client.login("columbia", PASSWORD);
    await seas.client.login("SEAS", PASSWORD);
    expect(await seas.client.message("columbia", "größe")).toBe("sent");
    await columbia.hears("message größe");
    await columbia.client.getAddress("SEAS");
    await seas.hears("asked");
    await seas.client.answer("columbia", true);
    await columbia.client.private("SEAS", "psst");
    await seas.hears("private psst");
    await columbia.client.logout();
    expect(await columbia.client.ended).toBe("logout");
    expect(front.heard).toContain(`login columbia ${PASSWORD}`);
  });

  test("a cut connection is taken up again where it was: nothing is lost, and nothing comes twice", async () => {
    const { client, heard, hears } = newClient();
    await client.login("columbia", PASSWORD);
    const { client: seas } = newClient({ port: server.port, tls: false });
    await seas.login("SEAS", PASSWORD);
    const texts = Array.from({ length: 100 }, (_, index) => `number ${index}`);
    for (const [index, text] of texts.entries()) {
      await seas.message("columbia", text);
      if (index % 40 === 20) front.cut();
    }
    await hears("message number 99");
    expect(heard.filter((line) => line.startsWith("message"))).toEqual(texts.map((text) => `message ${text}`));
    expect(front.heard).toMatch(/^resume \S+ \d+$/m);
  });

  test("the terminal client chats and leaves with 0", async () => {
    const input = "message SEAS hi\nmessage columbia me\n";
    expect(await runClient("127.0.0.1", front.port, trusting(), input)).toEqual({
      out: "stored for SEAS, who is not here\ncolumbia: me\nsent to columbia\n",
      err: "",
      code: 0,
    });
  });
});

test.each(["[::1]", "::1", "LOCALHOST", "localhost.", "127.1", "::ffff:127.0.0.1"])(
  "the certificate is checked for the host that %s is",
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

describe("a server that cannot be trusted hears nothing, and the client says why and ends with 1:", () => {
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
    // What this variable allows other programs is not allowed here.
    const { out, err, code } = await runClient("localhost", front.port, trusting(), "message SEAS hi\n", {
      NODE_TLS_REJECT_UNAUTHORIZED: "0",
    });
    const [, why = err] = new RegExp(`^heartline: cannot reach localhost:${front.port}: (.*)\n$`).exec(err) ?? [];
    expect(why).toMatch(words);
    expect({ out, code, heard: front.heard }).toEqual({ out: "", code: 1, heard: "" });
  });

  test("self-signed, where only public authorities are trusted", async () => {
    front.show(await makeCertificate(["localhost"]));
    const { err } = await runClient("localhost", front.port, ["--tls"], "");
    expect(err).toMatch(
      /the certificate there is not signed by a trusted authority \(.*\); trust it with --ca <file>\n$/,
    );
  });

  test("an authority that has expired itself", async () => {
    const old = await makeCertificate(["Old authority"], { notBefore: past, notAfter: yesterday });
    front.show(await makeCertificate(["localhost"], { issuer: old }));
    const { client } = newClient({ tls: { ca: old.cert } });
    await expect(client.connect()).rejects.toMatchObject({
      code: "untrusted",
      detail: "the authority of the certificate there has expired",
    });
  });

  test("without --ca only public authorities count, and with it only that file's", async () => {
    const { client } = newClient({ tls: true });
    await expect(client.login("columbia", PASSWORD)).rejects.toMatchObject({ code: "untrusted" });
    front.show(selfSigned);
    const { client: trusting } = newClient({ tls: { ca: `${authority.cert}\n${selfSigned.cert}` } });
    await trusting.login("columbia", PASSWORD);
    expect(front.heard).toStartWith("login");
  });
});

describe("a server that is not to be trusted any more", () => {
  test("is tried on, and told of once for each reason, until it is itself again", async () => {
    const { client, heard, hears } = newClient();
    await client.login("columbia", PASSWORD);
    front.show(selfSigned);
    front.cut();
    await front.isCalled(2);
    const before = front.heard;
    front.show(await makeCertificate(["chat.example"], { issuer: authority }));
    await hears("the certificate there is for chat.example, not for localhost");
    expect(front.heard).toBe(before);
    front.show(good);
    await hears("back");
    expect(await client.message("columbia", "again")).toBe("sent");
    expect(heard.filter((line) => UNKNOWN.test(line))).toHaveLength(1);
    expect(heard.filter((line) => line === "lost")).toHaveLength(1);
  });

  test("is one line on the screen, and the prompt comes back with the server", async () => {
    const args = ["src/main.ts", "chat", "localhost", String(front.port), "--user", "columbia", ...trusting()];
    const pty = new Pty(args, { columns: 120, env: { XDG_STATE_HOME: folder, HEARTLINE_PASSWORD: PASSWORD } });
    ptys.push(pty);
    await pty.until((lines) => lines.at(-1) === ">");
    front.show(selfSigned);
    front.cut();
    await pty.sees("not connected again: the certificate there is not signed by an authority in --ca");
    await pty.until((lines) => lines.at(-1) === "(lost) >");
    front.show(good);
    await pty.until((lines) => lines.at(-1) === ">");
    expect(pty.lines.filter((line) => line.includes("not connected again"))).toHaveLength(1);
  });

  test("is one line on stderr of a script, which goes on with the server", async () => {
    front.onHeard = () => {
      if (!front.heard.includes("message SEAS hi")) return;
      front.onHeard = () => {};
      front.show(selfSigned);
      front.cut();
      void front.isCalled(2).then(() => front.show(good));
    };
    const { out, err, code } = await runClient("localhost", front.port, trusting(), "message SEAS hi\n");
    expect({ out, code }).toEqual({ out: "stored for SEAS, who is not here\n", code: 0 });
    expect(err).toMatch(new RegExp(`^not connected again: ${UNKNOWN.source}; trying on\n$`));
  });
});

describe("no handshake", () => {
  test("comes from a server without TLS, and that is said", async () => {
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
  ])("comes from a server that %s, and that is said", async (_what, handlers) => {
    const { client } = newClient({ host: "127.0.0.1", port: listenPlain(handlers) });
    await expect(client.connect()).rejects.toMatchObject({
      code: "closed",
      detail: "the connection was closed at once; perhaps there is no TLS at that port",
    });
  });

  test("comes from a server that never answers: it is given up, and nothing was said but TLS", async () => {
    const [said, closed] = [Promise.withResolvers<Buffer>(), Promise.withResolvers<void>()];
    const port = listenPlain({ data: (_socket, chunk) => said.resolve(chunk), close: () => closed.resolve() });
    jest.useFakeTimers();
    try {
      const { client } = newClient({ host: "127.0.0.1", port });
      const login = client.login("columbia", PASSWORD);
      expect((await said.promise)[0]).toBe(0x16);
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
  test.each(["", "--callback"])("a port with TLS is recognized, and --tls proposed %s", async (option) => {
    expect(await runClient("127.0.0.1", front.port, option === "" ? [] : [option])).toEqual({
      out: "",
      err: "heartline: the server speaks TLS at that port: try --tls\n",
      code: 1,
    });
  });

  test("--tls is proposed also when a server closes without a word", async () => {
    const port = listenPlain({ data: (socket) => void socket.end() });
    const { err, code } = await runClient("127.0.0.1", port, []);
    expect(err).toBe("heartline: the server closed the connection; if it speaks TLS, try --tls\n");
    expect(code).toBe(1);
  });

  test("a client tries on when its server speaks TLS now, and comes back when it does not", async () => {
    const proxy = new Proxy(server.port);
    const { client, heard, hears } = newClient({ host: "127.0.0.1", port: proxy.port, tls: false });
    await client.login("columbia", PASSWORD);
    proxy.moveTo(front.port);
    proxy.cut();
    await front.isCalled(1);
    proxy.moveTo(server.port);
    await hears("back");
    expect(heard).toEqual(["lost", "back"]);
    proxy.stop();
  });

  /** Has the client take this machine for another one. */
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

  test("a password for another machine is warned of, in a script", async () => {
    const warning = "without --tls, others on the way to 127.0.0.1 can read your password and all you say\n";
    for (const options of [[], ["--callback"]]) {
      const { err, code } = await runClient("127.0.0.1", server.port, options, "", elsewhere());
      expect({ err, code }).toEqual({ err: warning, code: 0 });
    }
    expect(await runClient("127.0.0.1", front.port, trusting(), "", elsewhere())).toMatchObject({ err: "", code: 0 });
  });

  test.each(["127.0.0.1", "localhost", "LOCALHOST", "localhost.", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0"])(
    "a password for this machine is not warned of, when it is called %s",
    async (host) => expect(await runClient(host, server.port, [])).toEqual({ out: "", err: "", code: 0 }),
  );

  test("and on a terminal before it is asked", async () => {
    const pty = new Pty(["src/main.ts", "chat", "127.0.0.1", String(server.port)], { columns: 120, env: elsewhere() });
    ptys.push(pty);
    const lines = await pty.until((lines) => lines.at(-1) === "Name:");
    expect(lines[0]).toBe("without --tls, others on the way to 127.0.0.1 can read your password and all you say");
  });
});

describe("a command line", () => {
  const call = (...args: string[]): ReturnType<typeof runClient> => runClient("127.0.0.1", front.port, args);

  test("with --ca alone, or with --callback, is not meant", async () => {
    for (const args of [
      ["--ca", join(folder, "ca.pem")],
      ["--tls", "--callback"],
    ]) {
      expect(await call(...args)).toMatchObject({ err: expect.stringMatching(/^heartline: --.*\n$/), code: 2 });
    }
  });

  test("with a device that never ends, the size of --ca is refused", async () => {
    const err = "heartline: cannot read --ca /dev/zero: it has more than 16777216 bytes (--help shows how)\n";
    expect(await call("--tls", "--ca", "/dev/zero")).toEqual({ out: "", err, code: 2 });
  });

  test("with a file that holds no certificate says so", async () => {
    const file = join(folder, "x.pem");
    expect(await call("--tls", "--ca", file)).toMatchObject({ err: expect.stringContaining("ENOENT"), code: 2 });
    const damaged = authority.cert.replace(/\n.*\n/, "\n");
    for (const text of ["", "garbage", authority.key, damaged]) {
      writeFileSync(file, text);
      expect(await call("--tls", "--ca", file)).toEqual({
        out: "",
        err: `heartline: --ca ${file}: it has no certificate in PEM (--help shows how)\n`,
        code: 2,
      });
    }
    expect(front.heard).toBe("");
  });
});

test("a callback session has no TLS, since the server's calls have none", () => {
  expect(() => newClient({ session: "callback" })).toThrow("bad_request");
});

test("what a server says reaches stderr without control characters", async () => {
  const port = listenPlain({ data: (socket) => void socket.end("err odd \x1b[2Jgone\n") });
  expect(await runClient("127.0.0.1", port, [])).toMatchObject({
    err: "heartline: [2Jgone\n",
    code: 1,
  });
});

const REPLY = "ok AAAAAAAAAAAAAAAAAAAAAA 35\n";
/** Answers every line like that, behind the certificate of its argument's file. */
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

  /** The port of a program that shows the certificate of its last argument; what it prints of requests is answered. */
  function start(...command: string[]): Promise<number> {
    const file = join(folder, "server.pem");
    writeFileSync(file, good.cert + "\n" + good.key);
    const program = Bun.spawn([...command, file], { stdin: "pipe", stdout: "pipe", stderr: "ignore" });
    programs.push(program);
    const port = Promise.withResolvers<number>();
    const answer = async (): Promise<void> => {
      let said = "";
      for await (const chunk of program.stdout) {
        said += Buffer.from(chunk).toString("latin1");
        const found = /^(?:ACCEPT .*:)?(\d+)\n/m.exec(said);
        if (found !== null) port.resolve(Number(found[1]));
        said = said.replace(/^(login|message|logout).*\n/gm, () => {
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

  test.skipIf(openssl === null).each(["tls1_3", "tls1_2"])("openssl chats by %s", async (version) => {
    await chats(await startOpenssl(version));
  });

  test.skipIf(openssl === null)("openssl is refused below TLS 1.2", async () => {
    const { client } = newClient({ host: "127.0.0.1", port: await startOpenssl("tls1_1") });
    await expect(client.connect()).rejects.toMatchObject({
      code: "closed",
      detail: "the TLS handshake failed: TLSV1_ALERT_PROTOCOL_VERSION",
    });
  });

  test.skipIf(python === null)("Python chats", async () => {
    await chats(await start(python!, "-c", PYTHON));
  });
});
