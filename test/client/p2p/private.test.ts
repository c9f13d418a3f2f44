import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { X509Certificate } from "node:crypto";
import { type AddressInfo, type Server, type Socket, connect, createServer } from "node:net";
import { type TLSSocket, connect as connectTls, createServer as createTlsServer } from "node:tls";
import { ChatClient, type ChatClientOptions, ChatError, type ChatEvent } from "heartline/client";
import { type Certificate, newCertificate, safetyNumber } from "../../../src/client/p2p/certificate.ts";
import { Listener } from "../../../src/client/p2p/listener.ts";
import { PrivateChats } from "../../../src/client/p2p/private.ts";
import { PRIVATE_AUTHS_MAX, PRIVATE_LINE_BYTES_MAX } from "../../../src/limits.ts";
import { PASSWORD, type WireClient, WireServer } from "../../support/wire.ts";

const USERS = ["columbia", "SEAS", "foobar"];
const KINDS = ["plain", "resumable", "callback"] as const;
let server: WireServer;
const clients: ChatClient[] = [];
const listeners: Server[] = [];
const sockets: (Socket | TLSSocket)[] = [];
const [mine, others] = await Promise.all([newCertificate("SEAS"), newCertificate("SEAS")]);

beforeEach(() => {
  server = new WireServer({}, USERS);
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  for (const socket of sockets.splice(0)) socket.destroy();
  for (const listener of listeners.splice(0)) listener.close();
  server.cut();
  await server.stop();
});

/** A client that is in, and what it heard of private chats, one line each. */
async function enter(user: string, options: Partial<ChatClientOptions> = {}) {
  const heard: string[] = [];
  const events: ChatEvent[] = [];
  let changed = (): void => {};
  const client = new ChatClient({
    host: "127.0.0.1",
    port: server.port,
    listenPort: 0,
    onEvent: (event) => {
      if (event.kind === "joined" || event.kind === "left") return;
      heard.push(
        `${event.kind} ${"from" in event ? `${event.from} ${event.text}` : "user" in event ? event.user : ""}`,
      );
      events.push(event);
      changed();
    },
    ...options,
  });
  clients.push(client);
  await client.login(user, PASSWORD);
  /** Waits until it has heard that, and forgets everything up to there. */
  const hears = async (line: string): Promise<ChatEvent> => {
    while (!heard.includes(line)) await new Promise<void>((resolve) => (changed = resolve));
    heard.splice(0, heard.indexOf(line) + 1);
    return events.findLast((event) => line.startsWith(`${event.kind} `))!;
  };
  return { client, heard, hears };
}

/** SEAS, byte by byte, with a port where somebody may listen or not; presence is left out. */
async function enterByHand(
  listenPort: number,
): Promise<{ wire: WireClient; hears: (what: RegExp) => Promise<string[]> }> {
  const wire = await server.connect();
  wire.say(`login SEAS ${PASSWORD} listen=${listenPort}`);
  const hears = async (what: RegExp): Promise<string[]> => {
    for (;;) {
      const found = what.exec(await wire.line());
      if (found !== null) return found;
    }
  };
  await hears(/^ok/);
  return { wire, hears };
}

/** SEAS has asked columbia by hand, who agreed: where to call, with what ticket, and whom to expect there. */
async function invitedByHand(columbia: Awaited<ReturnType<typeof enter>>, key = mine.base64) {
  const seas = await enterByHand(1);
  seas.wire.say(`getaddress columbia ${key}`);
  await columbia.hears("asked SEAS");
  await columbia.client.answer("SEAS", true);
  const [, port, ticket = "", peerKey] = await seas.hears(/^address columbia 127\.0\.0\.1 (\d+) (\S+) (\S+)$/);
  await columbia.hears("invited SEAS");
  return { ...seas, port: Number(port), ticket, peerKey };
}

/** What somebody hears who calls with that certificate, or none, and says these lines: until "ok", or the end. */
function call(
  port: number,
  certificate: Certificate | null,
  ...lines: string[]
): Promise<{ heard: string; key: string }> {
  const { promise, resolve } = Promise.withResolvers<{ heard: string; key: string }>();
  const proof = certificate === null ? {} : { key: certificate.key, cert: certificate.pem };
  const socket = connectTls({ host: "127.0.0.1", port, rejectUnauthorized: false, minVersion: "TLSv1.3", ...proof });
  sockets.push(socket);
  let heard = "";
  socket.on("secureConnect", () => socket.write(lines.map((line) => `${line}\n`).join("")));
  socket.on("data", (chunk: Buffer) => {
    heard += chunk.toString();
    if (heard === "ok\n") resolve({ heard, key: socket.getPeerCertificate().raw.toString("base64") });
  });
  socket.on("error", () => {});
  socket.on("close", () => resolve({ heard, key: "" }));
  return promise;
}

/** A port of SEAS's, where callers with any certificate are taken; what they say, and a way to hang up on them. */
async function listenByHand(certificate: Certificate, hangsUp = false) {
  const lines: string[] = [];
  let changed = (): void => {};
  const callers: TLSSocket[] = [];
  const options = { key: certificate.key, cert: certificate.pem, requestCert: true, rejectUnauthorized: false };
  const listener = createTlsServer({ ...options, minVersion: "TLSv1.3" }, (socket) => {
    callers.push(socket);
    sockets.push(socket);
    socket.on("error", () => {});
    socket.on("data", (chunk: Buffer) => {
      for (const line of chunk.toString().split("\n").slice(0, -1)) {
        lines.push(line);
        if (line.startsWith("private ")) socket.write("ok\n", () => hangsUp && socket.destroy());
      }
      changed();
    });
  });
  listener.on("tlsClientError", () => {});
  listeners.push(listener);
  await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
  const hears = async (count: number): Promise<string[]> => {
    while (lines.length < count) await new Promise<void>((resolve) => (changed = resolve));
    return lines;
  };
  return { port: (listener.address() as AddressInfo).port, callers, lines, hears };
}

test("a certificate is for its user, from a day before, on P-256, and short enough for the server", () => {
  const { subject, subjectAltName, publicKey, validFrom, validTo } = new X509Certificate(mine.pem);
  expect([subject, subjectAltName]).toEqual(["CN=SEAS", "DNS:SEAS"]);
  expect(publicKey.asymmetricKeyDetails).toEqual({ namedCurve: "prime256v1" });
  expect(Date.now() - Date.parse(validFrom)).toBeGreaterThan(23 * 3600e3);
  expect(Date.parse(validTo)).toBeGreaterThan(Date.now());
  expect(new X509Certificate(mine.pem).verify(publicKey)).toBe(true);
  expect(new X509Certificate(mine.pem).raw.toString("base64")).toBe(mine.base64);
  expect(mine.base64.length).toBeLessThan(1400);
  expect(mine.base64).not.toBe(others.base64);
});

test("a safety number is the same from both sides, and another one for another certificate", () => {
  expect(safetyNumber(mine.base64, others.base64)).toMatch(/^\d{5}( \d{5}){5}$/);
  expect(safetyNumber(mine.base64, others.base64)).toBe(safetyNumber(others.base64, mine.base64));
  expect(safetyNumber(mine.base64, mine.base64)).not.toBe(safetyNumber(mine.base64, others.base64));
});

describe.each(KINDS)("a %s session", (session) => {
  test("asks, is answered, and both write to each other", async () => {
    const columbia = await enter("columbia", { session });
    const seas = await enter("SEAS", { session });
    await columbia.client.getAddress("SEAS");
    const early = columbia.client.private("SEAS", "before the answer");
    await seas.hears("asked columbia");
    await seas.client.answer("columbia", true);
    await columbia.hears("agreed SEAS");
    await seas.hears("private columbia before the answer");
    await early;
    for (const text of ["hi", "  two  spaces ", "ünï"]) {
      await columbia.client.private("SEAS", text);
      await seas.hears(`private columbia ${text}`);
      await seas.client.private("columbia", text);
      await columbia.hears(`private SEAS ${text}`);
    }
    expect(columbia.client.safetyNumber("SEAS")).toBe(seas.client.safetyNumber("columbia"));
  });

  test("may say no, and then nothing is sent", async () => {
    const columbia = await enter("columbia", { session });
    const seas = await enter("SEAS", { session });
    await columbia.client.getAddress("SEAS");
    const saying = columbia.client.private("SEAS", "hi");
    await seas.hears("asked columbia");
    await seas.client.answer("columbia", false);
    await expect(saying).rejects.toMatchObject({ code: "denied" });
    await columbia.hears("denied SEAS");
    await expect(columbia.client.private("SEAS", "hi")).rejects.toMatchObject({ code: "not_introduced" });
  });
});

test("refusals are the server's, and without an introduction there is nothing to say", async () => {
  const columbia = await enter("columbia");
  await enter("SEAS", { listenPort: undefined });
  const codes: string[] = [];
  for (const attempt of [
    () => columbia.client.getAddress("nobody"),
    () => columbia.client.getAddress("foobar"),
    () => columbia.client.getAddress("SEAS"),
    () => columbia.client.answer("SEAS", true),
    () => columbia.client.answer("SEAS", false),
    () => columbia.client.private("SEAS", "hi"),
    async () => columbia.client.safetyNumber("SEAS"),
  ]) {
    await attempt().catch((error) => codes.push(error.code));
  }
  const expected = ["unknown_user", "offline", "not_listening", "no_request", "no_request"];
  expect(codes).toEqual([...expected, "not_introduced", "not_introduced"]);
});

test("what waits for an answer to a question that could not be asked is refused like it", async () => {
  const columbia = await enter("columbia");
  const both = [columbia.client.getAddress("SEAS"), columbia.client.private("SEAS", "hi")];
  const outcomes = (await Promise.allSettled(both)) as PromiseRejectedResult[];
  expect(outcomes.map(({ reason }) => reason?.code)).toEqual(["offline", "offline"]);
});

describe("who calls", () => {
  test("is let in with the key and the ticket, and is shown ours", async () => {
    const columbia = await enter("columbia");
    const { port, ticket, peerKey } = await invitedByHand(columbia);
    expect(await call(port, mine, `private SEAS ${ticket}`, "message hi")).toEqual({ heard: "ok\n", key: peerKey! });
    await columbia.hears("private SEAS hi");
  });

  test("may be there before the server's word that they are invited", async () => {
    const chats = new PrivateChats(
      async () => "",
      () => {},
    );
    const admit = chats.admit.bind(chats);
    const called = Promise.withResolvers<void>();
    chats.admit = (...greeting) => {
      called.resolve();
      return admit(...greeting);
    };
    const port = await chats.listen(0);
    await chats.answer("SEAS", true);
    const calling = call(port, mine, "private SEAS ticket");
    await called.promise;
    chats.handle({ kind: "expect", user: "SEAS", host: "127.0.0.1", ticket: "ticket", key: mine.base64 });
    expect((await calling).heard).toBe("ok\n");
    await chats.end();
  });

  test("is not let in with a ticket but another key, or none", async () => {
    const columbia = await enter("columbia");
    const { port, ticket } = await invitedByHand(columbia);
    for (const certificate of [others, null]) {
      expect((await call(port, certificate, `private SEAS ${ticket}`, "message hi")).heard).toBe("");
    }
    expect(columbia.heard).toEqual([]);
  });

  test("is not let in with the right key and anything else than the right first line", async () => {
    const columbia = await enter("columbia");
    const { port, ticket } = await invitedByHand(columbia);
    const wrong = ticket.replace(/.$/, ticket.endsWith("A") ? "B" : "A");
    const firsts = [`private SEAS ${wrong}`, "private SEAS", `private foobar ${ticket}`, `private SEAS ${ticket} x`];
    for (const first of [...firsts, `PRIVATE SEAS ${ticket}`, "message hi", "", "x".repeat(100_000)]) {
      const caller = call(port, mine, first, "message hi");
      // A line too long is skipped, and the next one is no greeting.
      expect((await caller).heard).toBe("");
    }
    expect(columbia.heard).toEqual([]);
  });

  test("is not let in without TLS, nor below version 1.3", async () => {
    const columbia = await enter("columbia");
    const { port, ticket } = await invitedByHand(columbia);
    const heard = await new Promise<string>((resolve) => {
      let text = "";
      const socket = connect(port, "127.0.0.1", () => socket.write(`private SEAS ${ticket}\nmessage hi\n`));
      sockets.push(socket);
      socket.on("data", (chunk) => (text += chunk.toString("latin1")));
      socket.on("error", () => {});
      socket.on("close", () => resolve(text));
    });
    expect(heard).not.toContain("ok");
    const old = await new Promise<string>((resolve) => {
      const { key, pem: cert } = mine;
      const versions = { minVersion: "TLSv1.2", maxVersion: "TLSv1.2" } as const;
      const socket = connectTls({ host: "127.0.0.1", port, rejectUnauthorized: false, key, cert, ...versions });
      sockets.push(socket);
      socket.on("secureConnect", () => resolve("secure"));
      socket.on("error", () => resolve("refused"));
      socket.on("close", () => resolve("refused"));
    });
    expect(old).toBe("refused");
    expect(columbia.heard).toEqual([]);
  });

  test("is hung up on at once while nobody was invited", async () => {
    const listener = await Listener.open(0, { certificate: null, admit: async () => true });
    expect((await call(listener.port, mine, "private SEAS x")).heard).toBe("");
    listener.close();
  });

  test.each([
    ["has logged out", async (seas: WireClient) => seas.say("logout")],
    ["was replaced", async () => void (await enter("SEAS"))],
    ["has blocked the other", async (seas: WireClient) => seas.say("block columbia")],
  ])("is cut off and not let in again when that user %s", async (_what, end) => {
    const columbia = await enter("columbia");
    const { wire, port, ticket } = await invitedByHand(columbia);
    const first = await call(port, mine, `private SEAS ${ticket}`);
    expect(first.heard).toBe("ok\n");
    const cut = new Promise((resolve) => sockets.at(-1)!.once("close", resolve));
    await end(wire);
    await columbia.hears("parted SEAS");
    await cut;
    expect((await call(port, mine, `private SEAS ${ticket}`, "message hi")).heard).toBe("");
    expect(columbia.heard).toEqual([]);
  });

  test("and is gone before the answer disturbs nobody", async () => {
    const admitted: string[] = [];
    const listener = await Listener.open(0, {
      certificate: mine,
      admit: async (_line, greeting) => {
        admitted.push(greeting);
        throw new ChatError("gone");
      },
    });
    for (let i = 0; i < 3; i++) expect((await call(listener.port, others, "private SEAS x")).heard).toBe("");
    expect(admitted).toHaveLength(3);
    listener.close();
  });

  test("gets in while a crowd of others holds connections open and says nothing", async () => {
    const columbia = await enter("columbia");
    const { port, ticket } = await invitedByHand(columbia);
    const crowd = Array.from({ length: 4 * PRIVATE_AUTHS_MAX }, () => connect(port, "127.0.0.1").on("error", () => {}));
    sockets.push(...crowd);
    await Promise.all(crowd.map((socket) => new Promise((resolve) => socket.once("connect", resolve))));
    expect((await call(port, mine, `private SEAS ${ticket}`, "message hi")).heard).toBe("ok\n");
    await columbia.hears("private SEAS hi");
    // Of the crowd, the first have gone for those who came later.
    await Promise.all(
      crowd
        .slice(0, 3 * PRIVATE_AUTHS_MAX - 1)
        .map((socket) => socket.closed || new Promise((done) => socket.once("close", done))),
    );
  });
});

describe("who is called", () => {
  test("must have the key, or nothing is said", async () => {
    const impostor = await listenByHand(others);
    const seas = await enterByHand(impostor.port);
    const columbia = await enter("columbia");
    await columbia.client.getAddress("SEAS");
    seas.wire.say(`private_answer columbia yes ${mine.base64}`);
    await columbia.hears("agreed SEAS");
    await expect(columbia.client.private("SEAS", "hi")).rejects.toMatchObject({ code: "wrong_certificate" });
    await columbia.hears("impostor SEAS");
    expect(impostor.lines).toEqual([]);
  });

  test("is called with the right first line, again when the connection broke, and no more when it is over", async () => {
    const listener = await listenByHand(mine);
    const seas = await enterByHand(listener.port);
    const columbia = await enter("columbia");
    await columbia.client.getAddress("SEAS");
    seas.wire.say(`private_answer columbia yes ${mine.base64}`);
    const [, ticket] = await seas.hears(/^expect columbia 127\.0\.0\.1 (\S+) \S+$/);
    await columbia.client.private("SEAS", "hi");
    expect(await listener.hears(2)).toEqual([`private columbia ${ticket}`, "message hi"]);
    listener.callers[0]!.destroy();
    await listener.hears(3);
    await columbia.client.private("SEAS", "again");
    expect((await listener.hears(4)).slice(2)).toEqual([`private columbia ${ticket}`, "message again"]);
    const cut = new Promise((resolve) => listener.callers[1]!.once("close", resolve));
    seas.wire.say("block columbia");
    await columbia.hears("parted SEAS");
    await cut;
    await expect(columbia.client.private("SEAS", "hi")).rejects.toMatchObject({ code: "not_introduced" });
    expect(listener.callers).toHaveLength(2);
  });

  test("who hangs up again and again is left alone after a few times", async () => {
    const listener = await listenByHand(mine, true);
    const seas = await enterByHand(listener.port);
    const columbia = await enter("columbia");
    await columbia.client.getAddress("SEAS");
    seas.wire.say(`private_answer columbia yes ${mine.base64}`);
    await columbia.hears("unreachable SEAS");
    expect(listener.callers.length).toBeLessThan(6);
  });

  test("is written to over a chat that is open, though a question of one's own is not answered yet", async () => {
    const [columbia, seas] = [await enter("columbia"), await enter("SEAS")];
    await columbia.client.getAddress("SEAS");
    await seas.hears("asked columbia");
    await seas.client.getAddress("columbia");
    await seas.client.answer("columbia", true);
    await columbia.client.private("SEAS", "one");
    await seas.hears("private columbia one");
    await seas.client.private("columbia", "two");
    await columbia.hears("private SEAS two");
  });

  test("keeps the connection when asked and granted again, and misses nothing", async () => {
    const listener = await listenByHand(mine);
    const seas = await enterByHand(listener.port);
    const columbia = await enter("columbia");
    for (const text of ["first", "second", "third"]) {
      await columbia.client.getAddress("SEAS");
      seas.wire.say(`private_answer columbia yes ${mine.base64}`);
      await columbia.hears("agreed SEAS");
      await columbia.client.private("SEAS", text);
    }
    const [greeting, ...texts] = await listener.hears(4);
    expect(greeting).toMatch(/^private columbia /);
    expect(texts).toEqual(["message first", "message second", "message third"]);
    expect(listener.callers).toHaveLength(1);
  });

  test("a text that is too long for a line is refused here", async () => {
    const listener = await listenByHand(mine);
    const seas = await enterByHand(listener.port);
    const columbia = await enter("columbia");
    void columbia.client.getAddress("SEAS");
    // Said before the question has left, it waits for the answer all the same.
    const early = columbia.client.private("SEAS", "hi");
    await seas.hears(/^private_request columbia/);
    seas.wire.say(`private_answer columbia yes ${mine.base64}`);
    await early;
    const longest = "x".repeat(PRIVATE_LINE_BYTES_MAX - "message \n".length);
    await columbia.client.private("SEAS", longest);
    await expect(columbia.client.private("SEAS", `${longest}x`)).rejects.toMatchObject({ code: "line_too_long" });
  });

  test("who is gone is said to be gone", async () => {
    const seas = await enterByHand(1);
    const columbia = await enter("columbia");
    await columbia.client.getAddress("SEAS");
    seas.wire.say(`private_answer columbia yes ${mine.base64}`);
    await columbia.hears("agreed SEAS");
    await expect(columbia.client.private("SEAS", "hi")).rejects.toMatchObject({ code: "gone" });
  });
});

describe("without a key on the other side", () => {
  test("a question is answered no by itself", async () => {
    const columbia = await enter("columbia");
    const seas = await enterByHand(1);
    seas.wire.say("getaddress columbia");
    expect(await columbia.hears("asked SEAS")).toEqual({ kind: "asked", user: "SEAS", encrypted: false });
    await seas.hears(/^denied columbia$/);
  });

  test("nobody is called", async () => {
    const columbia = await enter("columbia");
    const listener = await listenByHand(mine);
    const seas = await enterByHand(listener.port);
    await columbia.client.getAddress("SEAS");
    seas.wire.say("private_answer columbia yes");
    expect(await columbia.hears("agreed SEAS")).toMatchObject({ encrypted: false });
    await expect(columbia.client.private("SEAS", "hi")).rejects.toMatchObject({ code: "not_introduced" });
    expect(listener.callers).toEqual([]);
  });
});

describe("an event handler that rejects", () => {
  test("ends the session as undelivered when the event came from the server", async () => {
    const onEvent = async ({ kind }: ChatEvent): Promise<void> => {
      if (kind === "agreed") throw new Error("no room");
    };
    const columbia = await enter("columbia", { onEvent });
    const seas = await enterByHand(1);
    await columbia.client.getAddress("SEAS");
    seas.wire.say(`private_answer columbia yes ${mine.base64}`);
    expect(await columbia.client.ended).toBe("undelivered");
  });

  test("causes a warning when the event came from another client", async () => {
    const columbia = await enter("columbia");
    const onEvent = async ({ kind }: ChatEvent): Promise<void> => {
      if (kind === "agreed") agreed.resolve();
      if (kind === "private") throw new Error("no room");
    };
    const agreed = Promise.withResolvers<void>();
    const warned = Promise.withResolvers<unknown>();
    process.once("warning", warned.resolve);
    const seas = await enter("SEAS", { onEvent });
    await seas.client.getAddress("columbia");
    await columbia.hears("asked SEAS");
    await columbia.client.answer("SEAS", true);
    await agreed.promise;
    await seas.client.private("columbia", "hello");
    await columbia.hears("private SEAS hello");
    await columbia.client.private("SEAS", "hi");
    expect(await warned.promise).toEqual(new Error("no room"));
    expect((await seas.client.online()).names).toEqual(["columbia"]);
  });
});

test("a server that was restarted has introduced nobody", async () => {
  const back = Promise.withResolvers<void>();
  const columbia = await enter("columbia", { onBack: back.resolve });
  await invitedByHand(columbia);
  const { port } = server;
  await server.stop();
  server = new WireServer({ port }, USERS);
  await back.promise;
  await columbia.hears("parted SEAS");
  await expect(columbia.client.private("SEAS", "hi")).rejects.toMatchObject({ code: "not_introduced" });
});

test("the text is on no wire as it is: neither to the server nor to the other client", async () => {
  const secret = "the quick brown fox";
  const records: Buffer[] = [];
  /** Passes everything on, and keeps a copy. */
  const relay = async (to: number): Promise<number> => {
    const listener = createServer((from) => {
      const onward = connect(to, "127.0.0.1");
      sockets.push(from, onward);
      for (const [one, other] of [
        [from, onward],
        [onward, from],
      ] as const) {
        one.on("data", (chunk: Buffer) => {
          records.push(chunk);
          other.write(chunk);
        });
        one.on("error", () => {});
        one.on("close", () => other.end());
      }
    });
    listeners.push(listener);
    await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
    return (listener.address() as AddressInfo).port;
  };
  const listener = await listenByHand(mine);
  const seas = await enterByHand(await relay(listener.port));
  const columbia = await enter("columbia", { port: await relay(server.port) });
  await columbia.client.getAddress("SEAS");
  seas.wire.say(`private_answer columbia yes ${mine.base64}`);
  const [, ticket = ""] = await seas.hears(/^expect columbia \S+ (\S+)/);
  await columbia.client.private("SEAS", secret);
  await listener.hears(2);
  await columbia.client.message("SEAS", "this one may be read");
  expect(listener.lines).toEqual([`private columbia ${ticket}`, `message ${secret}`]);
  const wire = Buffer.concat(records).toString("latin1");
  expect(wire).toContain("this one may be read");
  expect(wire).not.toContain(secret);
  expect(wire).not.toContain(`private columbia`);
});
