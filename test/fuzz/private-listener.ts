import { type Socket, connect, createServer } from "node:net";
import { type TLSSocket, connect as connectTls } from "node:tls";
import fc from "fast-check";
import { type Certificate, newCertificate } from "../../src/client/p2p/certificate.ts";
import { PrivateChats } from "../../src/client/p2p/private.ts";
import { PRIVATE_AUTH_MS, PRIVATE_AUTHS_MAX, PRIVATE_LINE_BYTES_MAX } from "../../src/limits.ts";
import { cut, cuts, expectAlike, latin1, target } from "./target.ts";

const TICKET = "T".repeat(22);
const HELLO = `private SEAS ${TICKET}\n`;

/** What a caller says first; whoever has the right certificate says it without the right ticket. */
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
  /** How they connect: plainly, or over TLS with whose certificate. */
  as: fc.constantFrom("plain", "nobody", "stranger", "SEAS"),
  wrong: wrongGreeting,
  /** Over TLS: the right greeting, by who has not the right certificate. */
  knowsTicket: fc.boolean(),
  /** Plainly: how much of a real client's first bytes comes before all else, and what is changed in it. */
  hello: fc.nat({ max: 1600 }),
  changed: fc.array(fc.tuple(fc.nat({ max: 1600 }), fc.nat({ max: 255 })), { maxLength: 3 }),
  cuts,
  ending: fc.constantFrom("waits", "ends", "breaks"),
});

/** Certificates, and the first bytes of a real client; made once. */
interface Kit {
  seas: Certificate;
  stranger: Certificate;
  clientHello: Buffer;
}

let made: Promise<Kit> | null = null;

async function make(): Promise<Kit> {
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

/** The deadlines of callers: none is over before `meet`. */
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

  meet(): void {
    for (const handler of this.#open.values()) handler();
    this.#open.clear();
  }

  restore(): void {
    Object.assign(globalThis, this.#own);
  }
}

/** Somebody who calls, what they hear, and when they are hung up on. */
class Caller {
  heard = "";
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
    this.#socket.on("data", (bytes: Buffer) => (this.heard += bytes.toString("latin1")));
    this.closed = new Promise((resolve) => this.#socket.once("close", () => resolve()));
    const connected = new Promise<void>((resolve) => {
      this.#socket.once(isPlain ? "connect" : "secureConnect", () => resolve());
    });
    this.#ready = Promise.race([connected, this.closed]);
  }

  /** Each piece leaves before the next one. */
  async say(pieces: readonly Buffer[]): Promise<void> {
    await this.#ready;
    for (const piece of pieces) {
      if (!this.#socket.writable) return;
      const sent = new Promise<void>((resolve) => this.#socket.write(piece, () => resolve()));
      await Promise.race([sent, this.closed]);
    }
  }

  /** Waits for that, or for the end. */
  async hears(text: string): Promise<void> {
    while (!this.heard.includes(text) && !this.#socket.closed) {
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
    holds: "whoever calls a client without key and ticket is shown nowhere and hung up on, and the invited gets in",
    batch: 10,
  },
  /** Who waits in silence has to go when their time is over, or when many others come. */
  fc.record({ callers: fc.array(caller, { maxLength: 6 }), crowd: fc.boolean() }),
  async ({ callers, crowd }) => {
    const { seas, stranger, clientHello } = await (made ??= make());
    const told: string[] = [];
    const wrong = Promise.withResolvers<never>();
    wrong.promise.catch(() => {}); // Whoever waits for something else waits for this too.
    const chats = new PrivateChats(
      async () => "",
      (event) => {
        told.push("text" in event ? `${event.kind} ${event.from} ${event.text}` : event.kind);
        if (told.at(-1)!.includes("evil")) wrong.reject(new Error(`the client was told ${told.at(-1)}`));
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
          await one.say(cut(bytes, cuts));
          if (ending === "ends") one.end();
          if (ending === "breaks") one.cut();
        }),
      );
      if (crowd) for (let i = 0; i < PRIVATE_AUTHS_MAX; i++) call("plain");
      let left = callers.length;
      for (const { closed } of open.slice(0, left)) void closed.then(() => left--);
      while (left > 0) {
        if (!crowd) deadlines.meet();
        await Promise.race([new Promise((resolve) => setImmediate(resolve)), wrong.promise]);
      }
      // Plainly one hears of TLS; over it there is nothing to hear.
      for (const [i, { as }] of callers.entries()) {
        if (as !== "plain") expectAlike(open[i]!.heard, "", `what ${as} heard`);
      }
      const invited = call(seas);
      await invited.say([latin1(HELLO)]);
      await invited.hears("ok\n");
      expectAlike(invited.heard, "ok\n", "what the invited heard");
      await invited.say([latin1("message hello\n")]);
      while (told.length < 2) await new Promise((resolve) => setImmediate(resolve));
      expectAlike(told, ["invited", "private SEAS hello"], "what the client was told");
    } finally {
      deadlines.restore();
      for (const one of open) one.cut();
      await chats.end();
      await Promise.all(open.map(({ closed }) => closed));
    }
  },
);
