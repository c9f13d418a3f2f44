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

/** Input from the program at the callback port; a number n is a `received` n bytes after the announced position. */
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
  { weight: 8, arbitrary: fc.record({ sends: fc.array(answer, { minLength: 1, maxLength: 3 }), cuts }) },
  { weight: 1, arbitrary: fc.constant({ closes: true } as const) },
  { weight: 1, arbitrary: fc.record({ room: fc.oneof(fc.nat({ max: 60 }), fc.constant(-1)) }) },
  { weight: 2, arbitrary: fc.constant({ drains: true } as const) },
  {
    weight: 4,
    arbitrary: fc.record({ passMs: fc.constantFrom(64, 300, CALLBACK_DEADLINE_MS, CALLBACK_PAUSE_MAX_MS) }),
  },
  { weight: 4, arbitrary: fc.record({ message: fc.nat({ max: 90 }) }) },
  { weight: 2, arbitrary: fc.record({ broadcast: fc.nat({ max: 90 }) }) },
  { weight: 1, arbitrary: fc.record({ acks: fc.nat({ max: 200 }) }) },
);

/** The socket of a call, driven by the test: its input and output so far. */
class Socket implements DialedSocket {
  input = "";
  output = "";
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
    // The first line fits into the send buffer of a new socket.
    const taken = this.output === "" ? count : Math.min(count, this.room);
    if (this.output !== "") this.room -= taken;
    this.output += bytes.toString("latin1", start, start + taken);
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

  /** The server's announcement: position and number of bytes, and the stream so far; null before it. */
  get announced(): { position: number; bytes: number; stream: string } | null {
    const [head = "", secret, position, bytes] = this.output.split("\n", 1)[0]!.split(" ");
    if (!this.output.includes("\n")) return null;
    expectAlike([head, secret], ["callback", SECRET], "the first words of a call");
    const stream = this.output.slice(this.output.indexOf("\n") + 1);
    return { position: Number(position), bytes: Number(bytes), stream };
  }
}

/** Alice has a callback session and bob sends to her. Any program may answer at her port. */
class CallbackFixture {
  readonly world = new World(["alice", "bob"], { idleTimeoutMs: 86_400_000 });
  readonly sockets: Socket[] = [];
  readonly #bob: TestPeer;
  readonly #session: Session;
  readonly #callbacks = new Callbacks(
    this.world.chat,
    () => this.world.begin(),
    (_host, _port, handlers) => this.#dialed(handlers),
  );
  /** The bytes of the stream that were seen in calls, by position. */
  readonly #stream: string[] = [];
  /** The texts that must arrive, in order. */
  readonly #expected: string[] = [];

  constructor() {
    const { world } = this;
    world.newCaller = (session) => new Callback(this.#callbacks, session, "192.0.2.1", 2000, SECRET);
    world.say(world.connect(), "login alice secret callback=2000");
    this.#session = world.account("alice").session!;
    this.#bob = world.login("bob");
    world.announce();
    this.#bob.read();
    this.check();
  }

  #dialed(handlers: DialHandlers): Socket {
    const socket = new Socket(handlers);
    this.sockets.push(socket);
    return socket;
  }

  /** The newest call, unless it has ended. */
  get call(): Socket | null {
    const newest = this.sockets.at(-1);
    return newest?.ended === false ? newest : null;
  }

  open(socket: Socket): void {
    if (socket.opened || socket.ended) return;
    socket.opened = true;
    socket.handlers.open();
  }

  receive(socket: Socket, text: string, sizes: readonly number[] = []): void {
    if (!socket.opened || socket.room < 0) return;
    for (const chunk of cut(latin1(text), sizes)) {
      socket.input += chunk.toString("latin1");
      socket.handlers.data(chunk);
      this.world.endTurns();
    }
  }

  /** The other side closes the call, or refuses it. */
  close(socket: Socket): void {
    socket.end();
    this.world.endTurns();
  }

  sendToAlice(verb: "message alice" | "broadcast", length: number): void {
    const text = `${this.#expected.length} ${"x".repeat(length)}`;
    const [reply] = this.world.ask(this.#bob, `${verb} ${text}`);
    expectThat(/^ok (sent|stored|1)$/.test(reply ?? ""), () => `bob got the reply ${reply}`);
    this.#expected.push(text);
  }

  ack(position: number): void {
    const [reply] = this.world.ask(this.world.connect(), `as ${TOKEN} alive ${position}`);
    const isSent = position <= this.#stream.length;
    expectAlike(
      reply?.split(" ")[0],
      isSent ? "ok" : "err",
      `the reply to alive ${position} of ${this.#stream.length}`,
    );
  }

  /** Checks what must hold at all times. */
  check(): void {
    expectAlike(this.world.faults.map(String), [], "faults");
    expectThat(this.#callbacks.calls.size <= 1, () => `${this.#callbacks.calls.size} calls at a time`);
    for (const socket of this.sockets) this.#checkSocket(socket);
    const { acked } = this.#session.outbox;
    expectThat(acked <= this.#stream.length, () => `${acked} bytes acked of ${this.#stream.length} that were sent`);
  }

  /** Only a program with the token gets the stream, from the announced position on. */
  #checkSocket(socket: Socket): void {
    const { announced } = socket;
    if (announced === null) return expectAlike(socket.output, "", "output before the announcement");
    const { position, bytes, stream } = announced;
    const isRight =
      socket.input.split("\n", 1)[0]!.replace(/\r$/, "") === `ready ${TOKEN}` && socket.input.includes("\n");
    expectThat(isRight || stream === "", () => `after the input ${JSON.stringify(socket.input)} it wrote ${stream}`);
    expectThat(stream.length <= bytes, () => `${stream.length} bytes where ${bytes} were announced`);
    expectThat(
      position <= this.#stream.length,
      () => `a call from ${position}, where ${this.#stream.length} were sent`,
    );
    for (const [i, character] of [...stream].entries()) {
      const known = (this.#stream[position + i] ??= character);
      expectThat(known === character, () => `byte ${position + i} of the stream has changed`);
    }
  }

  /** From here on all calls are answered as the protocol says: three calls deliver everything. */
  finish(): void {
    const { outbox } = this.#session;
    if (this.call !== null) this.close(this.call);
    const [reply] = this.world.ask(this.world.connect(), `as ${TOKEN} alive`);
    expectThat(reply?.startsWith("ok ") === true, () => `alive got the reply ${reply}`);
    for (let calls = 0; outbox.acked < outbox.end; calls++) {
      expectThat(calls < 3, () => "three calls were not enough");
      for (let ms = 0; this.#callbacks.calls.size === 0 && ms <= CALLBACK_PAUSE_MAX_MS; ms += TICK_MS) {
        this.world.pass(TICK_MS);
      }
      const socket = this.sockets.at(-1)!;
      this.open(socket);
      const { position, bytes } = socket.announced!;
      this.receive(socket, `ready ${TOKEN}\n`);
      expectAlike(socket.announced!.stream.length, bytes, "the number of delivered bytes");
      this.receive(socket, `received ${position + bytes}\n`);
      this.check();
    }
    const texts = this.#stream
      .join("")
      .split("\n")
      .filter((line) => /^(message|stored|broadcast)/.test(line));
    const received = texts.map((line) => line.replace(/^(message bob|stored bob \d+|broadcast bob) /, ""));
    expectAlike(received, this.#expected, "the texts that alice received");
    this.check();
  }
}

export const callbacks = target(
  {
    name: "callbacks",
    holds:
      "a call delivers nothing without the token, acks cover sent bytes only, and the right client gets everything",
  },
  fc.array(step, { maxLength: 30, size: "max" }),
  (steps) => {
    const room = new CallbackFixture();
    try {
      for (const step of steps) {
        const { call } = room;
        if ("passMs" in step) room.world.pass(step.passMs);
        else if ("message" in step) room.sendToAlice("message alice", step.message);
        else if ("broadcast" in step) room.sendToAlice("broadcast", step.broadcast);
        else if ("acks" in step) room.ack(step.acks);
        else if (call === null) continue;
        else if ("opens" in step) for (const socket of room.sockets) room.open(socket);
        else if ("sends" in step) {
          const position = call.announced?.position ?? 0;
          const texts = step.sends.map((line) => (typeof line === "number" ? `received ${position + line}\n` : line));
          room.receive(call, texts.join(""), step.cuts);
        } else if ("closes" in step) room.close(call);
        else if (call.room < 0) continue;
        else if ("room" in step) call.room = step.room;
        else if (call.opened) {
          call.room = Math.max(call.room, 1000);
          call.handlers.drain();
        }
        room.world.endTurns();
        room.check();
      }
      room.finish();
    } finally {
      room.world.store.close();
    }
  },
);
