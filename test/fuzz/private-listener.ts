import { type Socket, connect, createServer } from "node:net";
import { type TLSSocket, connect as connectTls } from "node:tls";
import fc from "fast-check";
import { type Certificate, newCertificate } from "../../src/client/p2p/certificate.ts";
import { PrivateChats } from "../../src/client/p2p/private.ts";
import { PRIVATE_AUTH_MS, PRIVATE_AUTHS_MAX, PRIVATE_LINE_BYTES_MAX } from "../../src/limits.ts";
import { cut, cuts, expectAlike, latin1, target } from "./target.ts";

const TICKET = "T".repeat(22);
const HELLO = `private SEAS ${TICKET}\n`;

/** The first bytes of a caller, without the right ticket. */
const wrongGreeting = fc.oneof(
  fc.constantFrom(
    "private SEAS\n",
    "private SEAS \n",
    `private SEAS ${TICKET} \n`,
    `private SEAS ${TICKET} x\n`,
    "\n",
    "\r\n",
  ),
  fc.constantFrom(
    `private SEAS ${TICKET.slice(1)}\n`,
    `private SEAS ${TICKET}T\n`,
    `private  SEAS ${TICKET}\n`,
    "ok\n",
  ),
  fc.constantFrom(
    `Private SEAS ${TICKET}\n`,
    `private seas ${TICKET}\n`,
    `message ${TICKET}\n`,
    `private __proto__ ${TICKET}\n`,
  ),
  fc.constantFrom(
    `private SEAS ${TICKET}`,
    "private ",
    "",
    `${"x".repeat(PRIVATE_LINE_BYTES_MAX)}\n`,
    "x".repeat(100_000),
  ),
  fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes).toString("latin1")),
);

const caller = fc.record({
  /** Plain TCP, or TLS with no certificate, with an unknown one, or with that of SEAS. */
  as: fc.constantFrom("plain", "nobody", "stranger", "SEAS"),
  wrong: wrongGreeting,
  /** Over TLS, without the certificate of SEAS: sends the right ticket. */
  knowsTicket: fc.boolean(),
  /** Over plain TCP: how many bytes of a real ClientHello come first, and changes in them. */
  hello: fc.nat({ max: 1600 }),
  changed: fc.array(fc.tuple(fc.nat({ max: 1600 }), fc.nat({ max: 255 })), { maxLength: 3 }),
  cuts,
  ending: fc.constantFrom("waits", "ends", "breaks"),
});

/** Certificates, and the ClientHello of a real client. Made once. */
interface Fixtures {
  seas: Certificate;
  stranger: Certificate;
  clientHello: Buffer;
}

let made: Promise<Fixtures> | null = null;

async function make(): Promise<Fixtures> {
  const { promise, resolve } = Promise.withResolvers<Buffer>();
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", (bytes: Buffer) => {
      resolve(bytes);
      socket.destroy();
    });
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as { port: number };
  connectTls({ host: "127.0.0.1", port, minVersion: "TLSv1.3", rejectUnauthorized: false }).on("error", () => {});
  const clientHello = await promise;
  server.close();
  const [seas, stranger] = await Promise.all([newCertificate("SEAS"), newCertificate("SEAS")]);
  return { seas, stranger, clientHello };
}

/** Replaces the timers of PRIVATE_AUTH_MS: they fire only in `expire`. */
class Deadlines {
  readonly #open = new Map<unknown, () => void>();
  readonly #own = { setTimeout: globalThis.setTimeout, clearTimeout: globalThis.clearTimeout };

  constructor() {
    const { setTimeout, clearTimeout } = this.#own;
    const replaced = (handler: () => void, ms?: number, ...rest: unknown[]): unknown => {
      if (ms !== PRIVATE_AUTH_MS) return setTimeout(handler, ms, ...rest);
      const handle = {};
      this.#open.set(handle, handler);
      return handle;
    };
    globalThis.setTimeout = replaced as typeof setTimeout;
    globalThis.clearTimeout = ((handle) => {
      if (!this.#open.delete(handle)) clearTimeout(handle as Timer);
    }) as typeof clearTimeout;
  }

  expire(): void {
    for (const handler of this.#open.values()) handler();
    this.#open.clear();
  }

  restore(): void {
    Object.assign(globalThis, this.#own);
  }
}

/** One connection to the listener: what it received, and when it was closed. */
class Caller {
  received = "";
  readonly closed: Promise<void>;
  readonly #socket: Socket | TLSSocket;
  readonly #ready: Promise<void>;

  constructor(port: number, certificate: Certificate | null | "plain") {
    const where = { host: "127.0.0.1", port };
    const proof =
      certificate === null || certificate === "plain" ? {} : { key: certificate.key, cert: certificate.pem };
    const isPlain = certificate === "plain";
    this.#socket = isPlain
      ? connect(where)
      : connectTls({ ...where, ...proof, rejectUnauthorized: false, minVersion: "TLSv1.3" });
    this.#socket.on("error", () => {});
    this.#socket.on("data", (bytes: Buffer) => (this.received += bytes.toString("latin1")));
    this.closed = new Promise((resolve) => this.#socket.once("close", () => resolve()));
    const connected = new Promise<void>((resolve) => {
      this.#socket.once(isPlain ? "connect" : "secureConnect", () => resolve());
    });
    this.#ready = Promise.race([connected, this.closed]);
  }

  /** Sends the pieces one after another, each after the previous one was written. */
  async send(pieces: readonly Buffer[]): Promise<void> {
    await this.#ready;
    for (const piece of pieces) {
      if (!this.#socket.writable) return;
      const sent = new Promise<void>((resolve) => this.#socket.write(piece, () => resolve()));
      await Promise.race([sent, this.closed]);
    }
  }

  /** Waits until the text has arrived or the connection is closed. */
  async waitFor(text: string): Promise<void> {
    while (!this.received.includes(text) && !this.#socket.closed) {
      const news = new Promise<void>((resolve) => this.#socket.once("data", () => resolve()));
      await Promise.race([news, this.closed]);
    }
  }

  end(): void {
    this.#socket.end();
  }

  cut(): void {
    this.#socket.destroy();
  }
}

export const privateListener = target(
  {
    name: "private-listener",
    holds: "callers without certificate and ticket are closed and show nothing, and the invited user gets through",
    batch: 10,
  },
  /** Silent callers are closed at their deadline, or when many others connect. */
  fc.record({ callers: fc.array(caller, { maxLength: 6 }), crowd: fc.boolean() }),
  async ({ callers, crowd }) => {
    const { seas, stranger, clientHello } = await (made ??= make());
    const events: string[] = [];
    const wrong = Promise.withResolvers<never>();
    wrong.promise.catch(() => {}); // It is also awaited below.
    const chats = new PrivateChats(
      async () => "",
      (event) => {
        events.push("text" in event ? `${event.kind} ${event.from} ${event.text}` : event.kind);
        if (events.at(-1)!.includes("evil")) wrong.reject(new Error(`the client got the event ${events.at(-1)}`));
      },
    );
    const deadlines = new Deadlines();
    const open: Caller[] = [];
    try {
      chats.sessionBegan("columbia");
      const port = await chats.listen(0);
      await chats.answer("SEAS", true);
      chats.handle({ kind: "expect", user: "SEAS", host: "127.0.0.1", ticket: TICKET, key: seas.base64 });
      const call = (certificate: Certificate | null | "plain"): Caller => {
        const one = new Caller(port, certificate);
        open.push(one);
        return one;
      };
      await Promise.all(
        callers.map(async ({ as, wrong, knowsTicket, hello, changed, cuts, ending }) => {
          const one = call(as === "plain" ? "plain" : as === "SEAS" ? seas : as === "stranger" ? stranger : null);
          const begun = Buffer.from(clientHello.subarray(0, hello));
          for (const [at, value] of changed) if (at < begun.length) begun[at] = value;
          const greeting = latin1(as !== "SEAS" && knowsTicket ? HELLO : wrong);
          const bytes = Buffer.concat([as === "plain" ? begun : latin1(""), greeting, latin1("message evil\n")]);
          await one.send(cut(bytes, cuts));
          if (ending === "ends") one.end();
          if (ending === "breaks") one.cut();
        }),
      );
      if (crowd) for (let i = 0; i < PRIVATE_AUTHS_MAX; i++) call("plain");
      let left = callers.length;
      for (const { closed } of open.slice(0, left)) void closed.then(() => left--);
      while (left > 0) {
        if (!crowd) deadlines.expire();
        await Promise.race([new Promise((resolve) => setImmediate(resolve)), wrong.promise]);
      }
      // Over plain TCP the caller receives a TLS alert. Over TLS it must receive nothing.
      for (const [i, { as }] of callers.entries()) {
        if (as !== "plain") expectAlike(open[i]!.received, "", `what ${as} received`);
      }
      const invited = call(seas);
      await invited.send([latin1(HELLO)]);
      await invited.waitFor("ok\n");
      expectAlike(invited.received, "ok\n", "what the invited user received");
      await invited.send([latin1("message hello\n")]);
      while (events.length < 2) await new Promise((resolve) => setImmediate(resolve));
      expectAlike(events, ["invited", "private SEAS hello"], "the events of the client");
    } finally {
      deadlines.restore();
      for (const one of open) one.cut();
      await chats.end();
      await Promise.all(open.map(({ closed }) => closed));
    }
  },
);
