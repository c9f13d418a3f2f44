import fc from "fast-check";
import type { Session } from "../../src/chat/session.ts";
import { CALLBACK_DEADLINE_MS, CALLBACK_PAUSE_MAX_MS } from "../../src/limits.ts";
import { Callback, Callbacks } from "../../src/net/callback.ts";
import type { DialHandlers, DialedSocket } from "../../src/net/dial.ts";
import { TICK_MS } from "../../src/timer-wheel.ts";
import { type TestPeer, World } from "../support/chat.ts";
import { cut, cuts, expectAlike, expectThat, latin1, target } from "./target.ts";

const TOKEN = "token00000000000000000001";
const SECRET = "token00000000000000000002";

/** What the owner of the port says; a number is a position of the stream behind the one that was announced. */
const answer = fc.oneof(
  { weight: 6, arbitrary: fc.constant(`ready ${TOKEN}\n`) },
  { weight: 5, arbitrary: fc.nat({ max: 200 }) },
  fc.constantFrom(
    `ready ${SECRET}\n`,
    `ready ${TOKEN}`,
    `ready ${TOKEN} \n`,
    `ready ${TOKEN}\r\n`,
    `Ready ${TOKEN}\n`,
    "ready \n",
  ),
  fc.constantFrom("received 9007199254740991\n", "received 9007199254740992\n", `received ${"9".repeat(300)}\n`),
  fc.constantFrom(
    "received -1\n",
    "received\n",
    "received 1e3\n",
    "received 0\n",
    "received \n",
    "\n",
    "x".repeat(300),
  ),
  fc.uint8Array({ maxLength: 20 }).map((bytes) => Buffer.from(bytes).toString("latin1")),
);

const step = fc.oneof(
  { weight: 6, arbitrary: fc.constant({ opens: true } as const) },
  { weight: 8, arbitrary: fc.record({ says: fc.array(answer, { minLength: 1, maxLength: 3 }), cuts }) },
  { weight: 1, arbitrary: fc.constant({ closes: true } as const) },
  { weight: 1, arbitrary: fc.record({ room: fc.oneof(fc.nat({ max: 60 }), fc.constant(-1)) }) },
  { weight: 2, arbitrary: fc.constant({ drains: true } as const) },
  {
    weight: 4,
    arbitrary: fc.record({ passMs: fc.constantFrom(64, 300, CALLBACK_DEADLINE_MS, CALLBACK_PAUSE_MAX_MS) }),
  },
  { weight: 4, arbitrary: fc.record({ message: fc.nat({ max: 90 }) }) },
  { weight: 2, arbitrary: fc.record({ broadcast: fc.nat({ max: 90 }) }) },
  { weight: 1, arbitrary: fc.record({ confirms: fc.nat({ max: 200 }) }) },
);

/** A call's socket, moved by hand, and what its owner has said and was sent. */
class Socket implements DialedSocket {
  said = "";
  written = "";
  /** How many bytes it takes; -1 when it is dead. */
  room = Number.POSITIVE_INFINITY;
  opened = false;
  ended = false;
  readonly handlers: DialHandlers;

  constructor(handlers: DialHandlers) {
    this.handlers = handlers;
  }

  write(bytes: Buffer, start: number, count: number): number {
    if (this.room < 0 || this.ended) return -1;
    // The kernel always takes the first line.
    const taken = this.written === "" ? count : Math.min(count, this.room);
    if (this.written !== "") this.room -= taken;
    this.written += bytes.toString("latin1", start, start + taken);
    return taken;
  }

  end(): void {
    if (this.ended) return;
    this.ended = true;
    this.handlers.closed();
  }

  terminate(): void {
    this.end();
  }

  /** What the server announced: the position and how many bytes follow; null before it has. */
  get announced(): { position: number; bytes: number; stream: string } | null {
    const [head = "", secret, position, bytes] = this.written.split("\n", 1)[0]!.split(" ");
    if (!this.written.includes("\n")) return null;
    expectAlike([head, secret], ["callback", SECRET], "a call's first words");
    const stream = this.written.slice(this.written.indexOf("\n") + 1);
    return { position: Number(position), bytes: Number(bytes), stream };
  }
}

/** Alice has a callback session, bob talks to her, and whoever has her port answers calls as he likes. */
class Room {
  readonly world = new World(["alice", "bob"], { idleTimeoutMs: 86_400_000 });
  readonly sockets: Socket[] = [];
  readonly #bob: TestPeer;
  readonly #session: Session;
  readonly #callbacks = new Callbacks(
    this.world.chat,
    () => this.world.begin(),
    (_host, _port, handlers) => this.#dialed(handlers),
  );
  /** The stream as it was seen at calls, by position. */
  readonly #seen: string[] = [];
  /** Texts that must arrive, in order. */
  readonly #expected: string[] = [];

  constructor() {
    const { world } = this;
    world.newCaller = (session) => new Callback(this.#callbacks, session, "192.0.2.1", 2000, SECRET);
    world.say(world.connect(), "login alice secret callback=2000");
    this.#session = world.account("alice").session!;
    this.#bob = world.login("bob");
    world.announce();
    this.#bob.read();
    this.judge();
  }

  #dialed(handlers: DialHandlers): Socket {
    const socket = new Socket(handlers);
    this.sockets.push(socket);
    return socket;
  }

  /** The newest, when it has not ended. One that ends before it is open does not show that. */
  get call(): Socket | null {
    const newest = this.sockets.at(-1);
    return newest?.ended === false ? newest : null;
  }

  open(socket: Socket): void {
    if (socket.opened || socket.ended) return;
    socket.opened = true;
    socket.handlers.open();
  }

  say(socket: Socket, text: string, sizes: readonly number[] = []): void {
    if (!socket.opened || socket.room < 0) return;
    for (const chunk of cut(latin1(text), sizes)) {
      socket.said += chunk.toString("latin1");
      socket.handlers.data(chunk);
      this.world.endTurns();
    }
  }

  /** The owner hangs up, or never picks up. */
  close(socket: Socket): void {
    socket.end();
    this.world.endTurns();
  }

  talk(verb: "message alice" | "broadcast", length: number): void {
    const text = `${this.#expected.length} ${"x".repeat(length)}`;
    const [reply] = this.world.ask(this.#bob, `${verb} ${text}`);
    expectThat(/^ok (sent|stored|1)$/.test(reply ?? ""), () => `bob was answered ${reply}`);
    this.#expected.push(text);
  }

  confirm(position: number): void {
    const [reply] = this.world.ask(this.world.connect(), `as ${TOKEN} alive ${position}`);
    const isSent = position <= this.#seen.length;
    expectAlike(reply?.split(" ")[0], isSent ? "ok" : "err", `the reply to alive ${position} of ${this.#seen.length}`);
  }

  /** What holds at every moment. */
  judge(): void {
    expectAlike(this.world.faults.map(String), [], "faults");
    expectThat(this.#callbacks.calls.size <= 1, () => `${this.#callbacks.calls.size} calls at a time`);
    for (const socket of this.sockets) this.#judge(socket);
    const { acked: confirmed } = this.#session.outbox;
    expectThat(confirmed <= this.#seen.length, () => `${confirmed} confirmed of ${this.#seen.length} that were sent`);
  }

  /** To the wrong owner nothing is written; to the right one the stream, from where it was announced. */
  #judge(socket: Socket): void {
    const { announced } = socket;
    if (announced === null) return expectAlike(socket.written, "", "what is written before the announcement");
    const { position, bytes, stream } = announced;
    const isRight =
      socket.said.split("\n", 1)[0]!.replace(/\r$/, "") === `ready ${TOKEN}` && socket.said.includes("\n");
    expectThat(isRight || stream === "", () => `written to who said ${JSON.stringify(socket.said)}: ${stream}`);
    expectThat(stream.length <= bytes, () => `${stream.length} bytes where ${bytes} were announced`);
    expectThat(position <= this.#seen.length, () => `a call from ${position}, where ${this.#seen.length} were sent`);
    for (const [i, character] of [...stream].entries()) {
      const known = (this.#seen[position + i] ??= character);
      expectThat(known === character, () => `byte ${position + i} of the stream is two things`);
    }
  }

  /** An honest owner has it all soon: each call as it comes is answered as it should be. */
  finish(): void {
    const { outbox } = this.#session;
    if (this.call !== null) this.close(this.call);
    const [reply] = this.world.ask(this.world.connect(), `as ${TOKEN} alive`);
    expectThat(reply?.startsWith("ok ") === true, () => `alive was answered ${reply}`);
    for (let calls = 0; outbox.acked < outbox.end; calls++) {
      expectThat(calls < 3, () => "three honest answers were not enough");
      for (let ms = 0; this.#callbacks.calls.size === 0 && ms <= CALLBACK_PAUSE_MAX_MS; ms += TICK_MS) {
        this.world.pass(TICK_MS);
      }
      const socket = this.sockets.at(-1)!;
      this.open(socket);
      const { position, bytes } = socket.announced!;
      this.say(socket, `ready ${TOKEN}\n`);
      expectAlike(socket.announced!.stream.length, bytes, "bytes of an honest delivery");
      this.say(socket, `received ${position + bytes}\n`);
      this.judge();
    }
    const texts = this.#seen
      .join("")
      .split("\n")
      .filter((line) => /^(message|stored|broadcast)/.test(line));
    const heard = texts.map((line) => line.replace(/^(message bob|stored bob \d+|broadcast bob) /, ""));
    expectAlike(heard, this.#expected, "what alice got");
    this.judge();
  }
}

export const callbacks = target(
  {
    name: "callbacks",
    holds: "whoever answers a call gets nothing without the token and confirms nothing unsent; the honest gets it all",
  },
  fc.array(step, { maxLength: 30, size: "max" }),
  (steps) => {
    const room = new Room();
    try {
      for (const step of steps) {
        const { call } = room;
        if ("passMs" in step) room.world.pass(step.passMs);
        else if ("message" in step) room.talk("message alice", step.message);
        else if ("broadcast" in step) room.talk("broadcast", step.broadcast);
        else if ("confirms" in step) room.confirm(step.confirms);
        else if (call === null) continue;
        else if ("opens" in step) for (const socket of room.sockets) room.open(socket);
        else if ("says" in step) {
          const position = call.announced?.position ?? 0;
          const texts = step.says.map((said) => (typeof said === "number" ? `received ${position + said}\n` : said));
          room.say(call, texts.join(""), step.cuts);
        } else if ("closes" in step) room.close(call);
        else if (call.room < 0) continue;
        else if ("room" in step) call.room = step.room;
        else if (call.opened) {
          call.room = Math.max(call.room, 1000);
          call.handlers.drain();
        }
        room.world.endTurns();
        room.judge();
      }
      room.finish();
    } finally {
      room.world.store.close();
    }
  },
);
