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

beforeEach(async () => {
  server = new WireServer({}, USERS);
  await server.ready();
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  for (const socket of sockets.splice(0)) socket.destroy();
  for (const listener of listeners.splice(0)) listener.close();
  server.cut();
  await server.stop();
});

/** A client that has logged in, and its events about private chats, one line each. */
async function enter(user: string, options: Partial<ChatClientOptions> = {}) {
  const received: string[] = [];
  const events: ChatEvent[] = [];
  let changed = (): void => {};
  const client = new ChatClient({
    host: "127.0.0.1",
    port: server.port,
    listenPort: 0,
    onEvent: (event) => {
      if (event.kind === "joined" || event.kind === "left") return;
      received.push(
        `${event.kind} ${"from" in event ? `${event.from} ${event.text}` : "user" in event ? event.user : ""}`,
      );
      events.push(event);
      changed();
    },
    ...options,
  });
  clients.push(client);
  await client.login(user, PASSWORD);
  /** Resolves with the event of that line, and removes it and all earlier lines. */
  const receives = async (line: string): Promise<ChatEvent> => {
    while (!received.includes(line)) await new Promise<void>((resolve) => (changed = resolve));
    received.splice(0, received.indexOf(line) + 1);
    return events.findLast((event) => line.startsWith(`${event.kind} `))!;
  };
  return { client, received, receives };
}

/** SEAS as a raw connection that announces `listenPort`. Presence events are skipped. */
async function enterByHand(
  listenPort: number,
): Promise<{ wire: WireClient; receives: (what: RegExp) => Promise<string[]> }> {
  const wire = await server.connect();
  wire.sendLines(`login SEAS ${PASSWORD} listen=${listenPort}`);
  const receives = async (what: RegExp): Promise<string[]> => {
    for (;;) {
      const found = what.exec(await wire.line());
      if (found !== null) return found;
    }
  };
  await receives(/^ok/);
  return { wire, receives };
}

/** SEAS asks columbia over a raw connection, and columbia accepts: her port, the ticket and her certificate. */
async function invitedByHand(columbia: Awaited<ReturnType<typeof enter>>, key = mine.base64) {
  const seas = await enterByHand(1);
  seas.wire.sendLines(`getaddress columbia ${key}`);
  await columbia.receives("asked SEAS");
  await columbia.client.answer("SEAS", true);
  const [, port, ticket = "", peerKey] = await seas.receives(/^address columbia 127\.0\.0\.1 (\d+) (\S+) (\S+)$/);
  await columbia.receives("invited SEAS");
  return { ...seas, port: Number(port), ticket, peerKey };
}

/** Connects with a certificate or none and sends `lines`. Resolves with what was received until "ok" or the end. */
function call(
  port: number,
  certificate: Certificate | null,
  ...lines: string[]
): Promise<{ received: string; key: string }> {
  const { promise, resolve } = Promise.withResolvers<{ received: string; key: string }>();
  const proof = certificate === null ? {} : { key: certificate.key, cert: certificate.pem };
  const socket = connectTls({ host: "127.0.0.1", port, rejectUnauthorized: false, minVersion: "TLSv1.3", ...proof });
  sockets.push(socket);
  let received = "";
  socket.on("secureConnect", () => socket.write(lines.map((line) => `${line}\n`).join("")));
  socket.on("data", (chunk: Buffer) => {
    received += chunk.toString();
    if (received === "ok\n") resolve({ received, key: socket.getPeerCertificate().raw.toString("base64") });
  });
  socket.on("error", () => {});
  socket.on("close", () => resolve({ received, key: "" }));
  return promise;
}

/** A port of SEAS that accepts any certificate, and the lines received. `closes`: it closes after the first line. */
async function listenByHand(certificate: Certificate, closes = false) {
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
        if (line.startsWith("private ")) socket.write("ok\n", () => closes && socket.destroy());
      }
      changed();
    });
  });
  listener.on("tlsClientError", () => {});
  listeners.push(listener);
  await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
  const receives = async (count: number): Promise<string[]> => {
    while (lines.length < count) await new Promise<void>((resolve) => (changed = resolve));
    return lines;
  };
  return { port: (listener.address() as AddressInfo).port, callers, lines, receives };
}

test("a certificate names its user, is valid since yesterday, uses P-256, and fits into a request", () => {
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

test("a safety number is equal on both sides, and different for a different certificate", () => {
  expect(safetyNumber(mine.base64, others.base64)).toMatch(/^\d{5}( \d{5}){5}$/);
  expect(safetyNumber(mine.base64, others.base64)).toBe(safetyNumber(others.base64, mine.base64));
  expect(safetyNumber(mine.base64, mine.base64)).not.toBe(safetyNumber(mine.base64, others.base64));
});

describe.each(KINDS)("a %s session", (session) => {
  test("asks, gets the answer, and sends and receives private texts", async () => {
    const columbia = await enter("columbia", { session });
    const seas = await enter("SEAS", { session });
    await columbia.client.getAddress("SEAS");
    const early = columbia.client.private("SEAS", "before the answer");
    await seas.receives("asked columbia");
    await seas.client.answer("columbia", true);
    await columbia.receives("agreed SEAS");
    await seas.receives("private columbia before the answer");
    await early;
    for (const text of ["hi", "  two  spaces ", "ünï"]) {
      await columbia.client.private("SEAS", text);
      await seas.receives(`private columbia ${text}`);
      await seas.client.private("columbia", text);
      await columbia.receives(`private SEAS ${text}`);
    }
    expect(columbia.client.safetyNumber("SEAS")).toBe(seas.client.safetyNumber("columbia"));
  });

  test("rejects with denied, and sends nothing, when the other user refuses", async () => {
    const columbia = await enter("columbia", { session });
    const seas = await enter("SEAS", { session });
    await columbia.client.getAddress("SEAS");
    const saying = columbia.client.private("SEAS", "hi");
    await seas.receives("asked columbia");
    await seas.client.answer("columbia", false);
    await expect(saying).rejects.toMatchObject({ code: "denied" });
    await columbia.receives("denied SEAS");
    await expect(columbia.client.private("SEAS", "hi")).rejects.toMatchObject({ code: "not_introduced" });
  });
});

test("requests reject with the code of the server, and texts without an introduction with not_introduced", async () => {
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

test("a text that waits for an answer rejects with the code of the refused request", async () => {
  const columbia = await enter("columbia");
  const both = [columbia.client.getAddress("SEAS"), columbia.client.private("SEAS", "hi")];
  const outcomes = (await Promise.allSettled(both)) as PromiseRejectedResult[];
  expect(outcomes.map(({ reason }) => reason?.code)).toEqual(["offline", "offline"]);
});

describe("a caller", () => {
  test("is accepted with certificate and ticket, and gets the certificate of the called client", async () => {
    const columbia = await enter("columbia");
    const { port, ticket, peerKey } = await invitedByHand(columbia);
    expect(await call(port, mine, `private SEAS ${ticket}`, "message hi")).toEqual({ received: "ok\n", key: peerKey! });
    await columbia.receives("private SEAS hi");
  });

  test("may connect before the server has sent expect", async () => {
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
    expect((await calling).received).toBe("ok\n");
    await chats.end();
  });

  test("is closed with the right ticket and another certificate, or none", async () => {
    const columbia = await enter("columbia");
    const { port, ticket } = await invitedByHand(columbia);
    for (const certificate of [others, null]) {
      expect((await call(port, certificate, `private SEAS ${ticket}`, "message hi")).received).toBe("");
    }
    expect(columbia.received).toEqual([]);
  });

  test("is closed with the right certificate and any other first line", async () => {
    const columbia = await enter("columbia");
    const { port, ticket } = await invitedByHand(columbia);
    const wrong = ticket.replace(/.$/, ticket.endsWith("A") ? "B" : "A");
    const firsts = [`private SEAS ${wrong}`, "private SEAS", `private foobar ${ticket}`, `private SEAS ${ticket} x`];
    for (const first of [...firsts, `PRIVATE SEAS ${ticket}`, "message hi", "", "x".repeat(100_000)]) {
      const caller = call(port, mine, first, "message hi");
      // A too long line is skipped, and the line after it is no valid first line.
      expect((await caller).received).toBe("");
    }
    expect(columbia.received).toEqual([]);
  });

  test("is closed without TLS, and with TLS below version 1.3", async () => {
    const columbia = await enter("columbia");
    const { port, ticket } = await invitedByHand(columbia);
    const received = await new Promise<string>((resolve) => {
      let text = "";
      const socket = connect(port, "127.0.0.1", () => socket.write(`private SEAS ${ticket}\nmessage hi\n`));
      sockets.push(socket);
      socket.on("data", (chunk) => (text += chunk.toString("latin1")));
      socket.on("error", () => {});
      socket.on("close", () => resolve(text));
    });
    expect(received).not.toContain("ok");
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
    expect(columbia.received).toEqual([]);
  });

  test("is closed at once while no caller is expected", async () => {
    const listener = await Listener.open(0, { certificate: null, admit: async () => true });
    expect((await call(listener.port, mine, "private SEAS x")).received).toBe("");
    listener.close();
  });

  test.each([
    ["has logged out", async (seas: WireClient) => seas.sendLines("logout")],
    ["was replaced", async () => void (await enter("SEAS"))],
    ["has blocked the other", async (seas: WireClient) => seas.sendLines("block columbia")],
  ])("is disconnected and not accepted again when its user %s", async (_what, end) => {
    const columbia = await enter("columbia");
    const { wire, port, ticket } = await invitedByHand(columbia);
    const first = await call(port, mine, `private SEAS ${ticket}`);
    expect(first.received).toBe("ok\n");
    const cut = new Promise((resolve) => sockets.at(-1)!.once("close", resolve));
    await end(wire);
    await columbia.receives("parted SEAS");
    await cut;
    expect((await call(port, mine, `private SEAS ${ticket}`, "message hi")).received).toBe("");
    expect(columbia.received).toEqual([]);
  });

  test("may disconnect before the check ends", async () => {
    const admitted: string[] = [];
    const listener = await Listener.open(0, {
      certificate: mine,
      admit: async (_line, greeting) => {
        admitted.push(greeting);
        throw new ChatError("gone");
      },
    });
    for (let i = 0; i < 3; i++) expect((await call(listener.port, others, "private SEAS x")).received).toBe("");
    expect(admitted).toHaveLength(3);
    listener.close();
  });

  test("is accepted while many silent connections are open", async () => {
    const columbia = await enter("columbia");
    const { port, ticket } = await invitedByHand(columbia);
    const silent = Array.from({ length: 4 * PRIVATE_AUTHS_MAX }, () =>
      connect(port, "127.0.0.1").on("error", () => {}),
    );
    sockets.push(...silent);
    await Promise.all(silent.map((socket) => new Promise((resolve) => socket.once("connect", resolve))));
    expect((await call(port, mine, `private SEAS ${ticket}`, "message hi")).received).toBe("ok\n");
    await columbia.receives("private SEAS hi");
    // Later connections replaced the first ones.
    await Promise.all(
      silent
        .slice(0, 3 * PRIVATE_AUTHS_MAX - 1)
        .map((socket) => socket.closed || new Promise((done) => socket.once("close", done))),
    );
  });
});

describe("a called client", () => {
  test("gets no text when its certificate is not the introduced one", async () => {
    const impostor = await listenByHand(others);
    const seas = await enterByHand(impostor.port);
    const columbia = await enter("columbia");
    await columbia.client.getAddress("SEAS");
    seas.wire.sendLines(`private_answer columbia yes ${mine.base64}`);
    await columbia.receives("agreed SEAS");
    await expect(columbia.client.private("SEAS", "hi")).rejects.toMatchObject({ code: "wrong_certificate" });
    await columbia.receives("impostor SEAS");
    expect(impostor.lines).toEqual([]);
  });

  test("gets the right first line, again after the connection broke, and not after the chat is over", async () => {
    const listener = await listenByHand(mine);
    const seas = await enterByHand(listener.port);
    const columbia = await enter("columbia");
    await columbia.client.getAddress("SEAS");
    seas.wire.sendLines(`private_answer columbia yes ${mine.base64}`);
    const [, ticket] = await seas.receives(/^expect columbia 127\.0\.0\.1 (\S+) \S+$/);
    await columbia.client.private("SEAS", "hi");
    expect(await listener.receives(2)).toEqual([`private columbia ${ticket}`, "message hi"]);
    listener.callers[0]!.destroy();
    await listener.receives(3);
    await columbia.client.private("SEAS", "again");
    expect((await listener.receives(4)).slice(2)).toEqual([`private columbia ${ticket}`, "message again"]);
    const cut = new Promise((resolve) => listener.callers[1]!.once("close", resolve));
    seas.wire.sendLines("block columbia");
    await columbia.receives("parted SEAS");
    await cut;
    await expect(columbia.client.private("SEAS", "hi")).rejects.toMatchObject({ code: "not_introduced" });
    expect(listener.callers).toHaveLength(2);
  });

  test("is unreachable after it closed FAILURES_MAX connections at once", async () => {
    const listener = await listenByHand(mine, true);
    const seas = await enterByHand(listener.port);
    const columbia = await enter("columbia");
    await columbia.client.getAddress("SEAS");
    seas.wire.sendLines(`private_answer columbia yes ${mine.base64}`);
    await columbia.receives("unreachable SEAS");
    expect(listener.callers.length).toBeLessThan(6);
  });

  test("gets texts over an open chat while its own request is not answered", async () => {
    const [columbia, seas] = [await enter("columbia"), await enter("SEAS")];
    await columbia.client.getAddress("SEAS");
    await seas.receives("asked columbia");
    await seas.client.getAddress("columbia");
    await seas.client.answer("columbia", true);
    await columbia.client.private("SEAS", "one");
    await seas.receives("private columbia one");
    await seas.client.private("columbia", "two");
    await columbia.receives("private SEAS two");
  });

  test("keeps its connection and gets all texts when it accepts again", async () => {
    const listener = await listenByHand(mine);
    const seas = await enterByHand(listener.port);
    const columbia = await enter("columbia");
    for (const text of ["first", "second", "third"]) {
      await columbia.client.getAddress("SEAS");
      seas.wire.sendLines(`private_answer columbia yes ${mine.base64}`);
      await columbia.receives("agreed SEAS");
      await columbia.client.private("SEAS", text);
    }
    const [greeting, ...texts] = await listener.receives(4);
    expect(greeting).toMatch(/^private columbia /);
    expect(texts).toEqual(["message first", "message second", "message third"]);
    expect(listener.callers).toHaveLength(1);
  });

  test("gets no text above PRIVATE_LINE_BYTES_MAX: it rejects with line_too_long", async () => {
    const listener = await listenByHand(mine);
    const seas = await enterByHand(listener.port);
    const columbia = await enter("columbia");
    void columbia.client.getAddress("SEAS");
    // Sent before the request, it waits for the answer too.
    const early = columbia.client.private("SEAS", "hi");
    await seas.receives(/^private_request columbia/);
    seas.wire.sendLines(`private_answer columbia yes ${mine.base64}`);
    await early;
    const longest = "x".repeat(PRIVATE_LINE_BYTES_MAX - "message \n".length);
    await columbia.client.private("SEAS", longest);
    await expect(columbia.client.private("SEAS", `${longest}x`)).rejects.toMatchObject({ code: "line_too_long" });
  });

  test("causes the code gone when it cannot be reached", async () => {
    const seas = await enterByHand(1);
    const columbia = await enter("columbia");
    await columbia.client.getAddress("SEAS");
    seas.wire.sendLines(`private_answer columbia yes ${mine.base64}`);
    await columbia.receives("agreed SEAS");
    await expect(columbia.client.private("SEAS", "hi")).rejects.toMatchObject({ code: "gone" });
  });
});

describe("a user without a certificate", () => {
  test("is refused automatically", async () => {
    const columbia = await enter("columbia");
    const seas = await enterByHand(1);
    seas.wire.sendLines("getaddress columbia");
    expect(await columbia.receives("asked SEAS")).toEqual({ kind: "asked", user: "SEAS", encrypted: false });
    await seas.receives(/^denied columbia$/);
  });

  test("is not connected to", async () => {
    const columbia = await enter("columbia");
    const listener = await listenByHand(mine);
    const seas = await enterByHand(listener.port);
    await columbia.client.getAddress("SEAS");
    seas.wire.sendLines("private_answer columbia yes");
    expect(await columbia.receives("agreed SEAS")).toMatchObject({ encrypted: false });
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
    seas.wire.sendLines(`private_answer columbia yes ${mine.base64}`);
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
    await columbia.receives("asked SEAS");
    await columbia.client.answer("SEAS", true);
    await agreed.promise;
    await seas.client.private("columbia", "hello");
    await columbia.receives("private SEAS hello");
    await columbia.client.private("SEAS", "hi");
    expect(await warned.promise).toEqual(new Error("no room"));
    expect((await seas.client.online()).names).toEqual(["columbia"]);
  });
});

test("introductions do not hold after a restart of the server", async () => {
  const back = Promise.withResolvers<void>();
  const columbia = await enter("columbia", { onBack: back.resolve });
  await invitedByHand(columbia);
  const { port } = server;
  await server.stop();
  server = new WireServer({ port }, USERS);
  await server.ready();
  await back.promise;
  await columbia.receives("parted SEAS");
  await expect(columbia.client.private("SEAS", "hi")).rejects.toMatchObject({ code: "not_introduced" });
});

test("a private text is not in plain text on any connection", async () => {
  const secret = "the quick brown fox";
  const records: Buffer[] = [];
  /** Relays all bytes, and keeps a copy. */
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
  seas.wire.sendLines(`private_answer columbia yes ${mine.base64}`);
  const [, ticket = ""] = await seas.receives(/^expect columbia \S+ (\S+)/);
  await columbia.client.private("SEAS", secret);
  await listener.receives(2);
  await columbia.client.message("SEAS", "this one may be read");
  expect(listener.lines).toEqual([`private columbia ${ticket}`, `message ${secret}`]);
  const wire = Buffer.concat(records).toString("latin1");
  expect(wire).toContain("this one may be read");
  expect(wire).not.toContain(secret);
  expect(wire).not.toContain(`private columbia`);
});
