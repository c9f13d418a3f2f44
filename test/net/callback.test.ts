import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { KEEPING_UP_MS, LIMITS_DEFAULT } from "../../src/limits.ts";
import { Callback, Callbacks } from "../../src/net/callback.ts";
import type { DialHandlers, DialedSocket } from "../../src/net/dial.ts";
import { type TestPeer, World } from "../support/chat.ts";
import { PASSWORD, type WireClient, WireServer } from "../support/wire.ts";

let server: WireServer;
const phones: Phone[] = [];

beforeEach(async () => {
  server = new WireServer();
  await server.ready();
});

afterEach(async () => {
  await server.stop();
  for (const phone of phones.splice(0)) phone.hangUp();
});

/** How a phone replies: to `callback ...`, and when it has the bytes. The default is as the protocol says. */
interface Manners {
  ready?: string;
  received?: (position: number) => string;
}

/** A callback client: it listens, logs in, sends each request on a connection of its own, and answers calls. */
class Phone {
  token = "";
  secret = "";
  received = 0;
  /** Lines that calls delivered, without duplicates. */
  readonly lines: string[] = [];
  /** What the calls announced: `<position> <bytes>`. */
  readonly calls: string[] = [];
  manners: Manners = {};
  #listener: Bun.TCPSocketListener<{ text: string }> | null = null;
  #changed = (): void => {};

  static async login(name: string, options = ""): Promise<Phone> {
    const phone = new Phone();
    phones.push(phone);
    phone.#listen(0);
    const wire = await server.connect();
    wire.sendLines(`login ${name} ${PASSWORD} callback=${phone.port}${options}`);
    const [ok, token, silence, secret] = (await wire.line()).split(" ");
    expect([ok, silence]).toEqual(["ok", "35"]);
    phone.token = token!;
    phone.secret = secret!.replace("secret=", "");
    await wire.expectEnd();
    return phone;
  }

  get port(): number {
    return this.#listener!.port;
  }

  #listen(port: number): void {
    this.#listener = Bun.listen<{ text: string }>({
      hostname: "127.0.0.1",
      port,
      socket: {
        open: (socket) => void (socket.data = { text: "" }),
        data: (socket, chunk) => {
          socket.data.text += chunk.toString("latin1");
          this.#hear(socket.data.text, (answer) => socket.write(answer));
        },
      },
    });
  }

  #hear(text: string, answer: (line: string) => void): void {
    const lf = text.indexOf("\n");
    const [verb, secret, position, bytes] = text.slice(0, lf).split(" ");
    expect(verb).toBe("callback");
    if (secret !== this.secret) return; // The reply to the login has not arrived, or another program calls.
    if (text.length === lf + 1) {
      this.calls.push(`${position} ${bytes}`);
      answer(`${this.manners.ready ?? `ready ${this.token}`}\n`);
    }
    if (text.length !== lf + 1 + Number(bytes)) return this.#changed();
    const news = text.slice(lf + 1).slice(this.received - Number(position));
    this.lines.push(...news.split("\n").slice(0, -1));
    this.received = Number(position) + Number(bytes);
    answer(`${this.manners.received?.(this.received) ?? `received ${this.received}`}\n`);
    this.#changed();
  }

  /** One request on a connection of its own. */
  async asks(request: string, reply: string): Promise<void> {
    const wire = await server.connect();
    await wire.expectReply(`as ${this.token} ${request}`, reply);
    await wire.expectEnd();
  }

  async hears(...expected: string[]): Promise<void> {
    while (this.lines.length < expected.length) await new Promise<void>((resolve) => (this.#changed = resolve));
    const heard = this.lines.splice(0, expected.length).map((line) => line.replace(/^(stored \S+) \d{13}/, "$1 <ms>"));
    expect(heard).toEqual(expected);
  }

  async called(times: number): Promise<void> {
    while (this.calls.length < times) await new Promise<void>((resolve) => (this.#changed = resolve));
  }

  hangUp(): void {
    this.#listener!.stop(true);
  }

  /** Listens at its former port, or at a free one. */
  pickUp(): void {
    this.#listen(this.#listener?.port ?? 0);
  }
}

test("the first call follows the login at once, even with nothing to deliver", async () => {
  const alice = await Phone.login("alice");
  await alice.called(1);
  expect(alice.calls).toEqual(["0 0"]);
});

test("all requests work as in other sessions", async () => {
  const bob = await server.login("bob");
  const alice = await Phone.login("alice");
  await bob.expectLines("joined alice");
  await alice.asks("online", "ok bob");
  await alice.asks("message bob hi", "ok sent");
  await bob.expectLines("message alice hi");
  await alice.asks("broadcast to all", "ok 1");
  await bob.expectLines("broadcast alice to all");
  await bob.expectReply("message alice you too", "ok sent");
  await alice.hears("message bob you too");
  await bob.expectReply("broadcast everybody", "ok 1");
  await alice.hears("broadcast bob everybody");
  await alice.asks("block bob", "ok");
  await bob.expectReply("message alice again", "err blocked");
  await alice.asks("unblock bob", "ok");
  await alice.asks("message carol later", "ok stored");
  await alice.asks("alive", "ok 0");
  await alice.asks("dance", "err unknown_command");
  await alice.asks("message bob", "err bad_request message <user> <text>");
  await alice.asks("logout", "ok");
  await bob.expectLines("left alice logout");
  const late = await server.connect();
  await late.expectReply(`as ${alice.token} online`, "err unknown_session");
});

test("two callback sessions chat with each other, and a message to oneself arrives by a call", async () => {
  const alice = await Phone.login("alice");
  const bob = await Phone.login("bob");
  await alice.hears("joined bob");
  await alice.asks("message bob hi", "ok sent");
  await bob.hears("message alice hi");
  await bob.asks("message bob me", "ok sent");
  await bob.hears("message bob me");
});

test("as needs the token of a callback session, and cannot contain login, resume or as", async () => {
  const alice = await Phone.login("alice");
  for (const inner of ["login alice x", `resume ${alice.token} 0`, `as ${alice.token} online`]) {
    const wire = await server.connect();
    wire.sendLines(`as ${alice.token} ${inner}`);
    expect(await wire.line()).toBe("err bad_request as <token> <request>");
  }
  const wire = await server.connect();
  await wire.expectReply(`as AAAAAAAAAAAAAAAAAAAAAA online`, "err unknown_session");
});

test("another program at the port receives no messages and acknowledges nothing", async () => {
  const alice = await Phone.login("alice");
  await alice.called(1);
  alice.manners = { ready: "ready AAAAAAAAAAAAAAAAAAAAAA" };
  const bob = await server.login("bob");
  await bob.expectReply("message alice secret", "ok sent");
  await alice.called(2);
  expect(alice.lines).toEqual([]);
  alice.manners = { ready: "received 1000" };
  await alice.asks("alive", "ok 0");
  await alice.called(3);
  expect(alice.lines).toEqual([]);
  alice.manners = {};
  await alice.asks("alive", "ok 0");
  await alice.hears("joined bob", "message bob secret");
});

test("a delivery without a valid acknowledgement is repeated from the same position", async () => {
  const alice = await Phone.login("alice");
  await alice.called(1);
  alice.manners = { received: () => "received 1000000" };
  await alice.asks("message alice one", "ok sent");
  await alice.hears("message alice one");
  alice.manners = {};
  await alice.asks("alive", "ok 0");
  await alice.asks("message alice two", "ok sent");
  await alice.hears("message alice two");
  expect(alice.calls[1]).toBe("0 18");
  expect(alice.calls[2]).toBe("0 18");
});

test("a client that was unreachable receives everything when it is reachable again", async () => {
  const alice = await Phone.login("alice");
  await alice.called(1);
  alice.hangUp();
  const bob = await server.login("bob");
  for (const text of ["one", "two"]) await bob.expectReply(`message alice ${text}`, "ok sent");
  alice.pickUp();
  await alice.hears("joined bob", "message bob one", "message bob two");
});

test("a newer login and the stop of the server lead to one more call, with goodbye", async () => {
  const alice = await Phone.login("alice");
  const young = await Phone.login("alice");
  await alice.hears("goodbye replaced");
  const late = await server.connect();
  await late.expectReply(`as ${alice.token} online`, "err unknown_session replaced");
  await young.called(1);
  const stopped = server.stop();
  await young.hears("goodbye shutdown");
  await stopped;
});

test("during a drain a callback session sends requests, and its last call has goodbye", async () => {
  const alice = await Phone.login("alice");
  await alice.called(1);
  server.drain(0.3);
  await alice.asks("message bob hi", "ok stored");
  await alice.hears("goodbye shutdown");
  expect(await server.exited).toBe(0);
});

test("a callback session without activity expires with a goodbye, and answered calls are activity", async () => {
  await server.stop();
  server = new WireServer({ idleTimeoutMs: 300 });
  await server.ready();
  const phone = new Phone();
  phones.push(phone);
  const wire: WireClient = await server.connect();
  wire.sendLines(`login alice ${PASSWORD} callback=${listenFor(phone)}`);
  const [, token, , secret] = (await wire.line()).split(" ");
  phone.token = token!;
  phone.secret = secret!.replace("secret=", "");
  await phone.hears("goodbye expired");
});

test("a login with after= repeats no message that the ended session delivered, in its last call included", async () => {
  const alice = await Phone.login("alice");
  await alice.called(1);
  await alice.asks("message alice one", "ok sent");
  await alice.hears("message alice one");
  alice.hangUp();
  await alice.asks("message alice two", "ok sent");
  const wire = await server.connect();
  wire.sendLines(`login alice ${PASSWORD} after=${alice.token}:${alice.received}`);
  await wire.expectLines("ok <token> 35", "stored alice <ms> two");
  await wire.expectReply("alive", "ok");
});

function listenFor(phone: Phone): number {
  phone.pickUp();
  return phone.port;
}

describe("calls on simulated sockets", () => {
  const TOKEN = "token00000000000000000001";

  /** The socket of one call, and what was written to it. */
  class Socket implements DialedSocket {
    written = "";
    ended = false;
    room = Number.POSITIVE_INFINITY;
    constructor(readonly handlers: DialHandlers) {}
    write(bytes: Buffer, start: number, length: number): number {
      const count = Math.min(length, this.room);
      this.room -= count;
      this.written += bytes.toString("latin1", start, start + count);
      return count;
    }
    end(): void {
      if (this.ended) return;
      this.ended = true;
      this.handlers.closed();
    }
    terminate(): void {
      this.end();
    }
    says(line: string): void {
      this.handlers.data(Buffer.from(`${line}\n`));
    }
  }

  let world: World;
  let calls: Socket[];

  const dialed = (_host: string, _port: number, handlers: DialHandlers): Socket => {
    const socket = new Socket(handlers);
    calls.push(socket);
    return socket;
  };

  beforeEach(() => {
    calls = [];
    world = new World(["alice", "bob"]);
    const callbacks = new Callbacks(world.chat, () => world.begin(), dialed);
    world.newCaller = (session) => new Callback(callbacks, session, "192.0.2.1", 2000, "secret");
    world.say(world.connect(), "login alice secret callback=2000");
  });

  /** The next call of the server, connected. */
  function call(): Socket {
    const socket = calls.shift()!;
    socket.handlers.open();
    return socket;
  }

  function answer(socket: Socket, ...lines: string[]): void {
    for (const line of lines) {
      socket.says(line);
      world.endTurns();
    }
  }

  test("the session of an unreachable client ends as slow above the limit on unacknowledged bytes", () => {
    const [bob] = world.online("bob") as [TestPeer];
    const text = "x".repeat(4000);
    for (let bytes = 0; bytes <= LIMITS_DEFAULT.unackedBytesMax; bytes += 4000) world.say(bob, `broadcast ${text}`);
    world.pass(KEEPING_UP_MS + 1000);
    expect(bob.read().at(-1)).toBe("left alice slow");
  });

  test("at most callbacksMax run at once, and waiting sessions are called in their order", () => {
    world.chat.limits.callbacksMax = 2;
    const callbacks = new Callbacks(world.chat, () => world.begin(), dialed);
    calls.length = 0;
    for (const name of ["carol", "dave", "erin"]) {
      world.newCaller = (session) => new Callback(callbacks, session, "192.0.2.1", 2000, name);
      world.chat.accounts.add(name, "secret");
      world.say(world.connect(), `login ${name} secret callback=2000`);
    }
    const [carol, dave] = [call(), call()];
    expect([carol.written, dave.written]).toEqual(["callback carol 0 0\n", "callback dave 0 0\n"]);
    world.pass(1000);
    expect(calls).toHaveLength(0);
    carol.end();
    expect(call().written).toMatch(/^callback erin /);
    // Carol's second call is due and waits for the end of another call.
    world.pass(1000);
    expect(calls).toHaveLength(0);
    dave.end();
    expect(call().written).toMatch(/^callback carol /);
    expect(callbacks.waiting.size).toBe(0);
  });

  test("an acknowledgement by an as while a call begins ends the call, since its first bytes are freed", () => {
    const lost = call();
    answer(lost, `ready ${TOKEN}`, "received 0");
    const [bob] = world.online("bob") as [TestPeer];
    world.say(bob, "message alice one");
    const first = call();
    answer(first, `ready ${TOKEN}`);
    expect(first.written).toBe("callback secret 0 11\njoined bob\n");
    answer(first, "received 99");
    world.pass(300);
    const second = call();
    expect(second.written).toBe("callback secret 0 27\n");
    world.say(world.connect(), `as ${TOKEN} alive 11`);
    answer(second, `ready ${TOKEN}`);
    expect(second).toMatchObject({ written: "callback secret 0 27\n", ended: true });
    world.pass(1000);
    const third = call();
    answer(third, `ready ${TOKEN}`);
    expect(third.written).toBe("callback secret 11 16\nmessage bob one\n");
  });

  /** Alice's phone answers its first call. Then `bytes` wait for her. */
  function backlog(bytes: number): void {
    answer(call(), `ready ${TOKEN}`, "received 0");
    const text = Buffer.alloc(bytes - "message bob \n".length, "x");
    world.begin();
    world.chat.send(world.account("bob"), world.account("alice"), text, 0, text.length);
    world.endTurns();
  }

  /** What a call announces: position and number of bytes. */
  function announced(socket: Socket): [position: number, bytes: number] {
    const [, , position, bytes] = socket.written.split("\n", 1)[0]!.split(" ");
    return [Number(position), Number(bytes)];
  }

  test("a line longer than a delivery makes the next one longer, after a pause", () => {
    backlog(512 << 10);
    for (const bytes of [128 << 10, 256 << 10]) {
      const socket = call();
      expect(announced(socket)).toEqual([0, bytes]);
      answer(socket, `ready ${TOKEN}`, "received 0");
      expect(calls).toEqual([]);
      world.pass(1000);
    }
    const whole = call();
    expect(announced(whole)).toEqual([0, 512 << 10]);
    answer(whole, `ready ${TOKEN}`, `received ${512 << 10}`);
    expect(world.account("alice").session!.outbox.unacked).toBe(0);
  });

  test("a call without a reply closes its descriptor after 5 s", () => {
    world.pass(4_900);
    expect(calls[0]!.ended).toBe(false);
    world.pass(200);
    expect(calls[0]!.ended).toBe(true);
  });

  test("a delivery has 5 s and one second more for each 2 KiB, also when bytes arrive meanwhile", () => {
    backlog(64 << 10);
    const slow = call();
    slow.room = 200;
    answer(slow, `ready ${TOKEN}`);
    for (let seconds = 0; seconds < 36; seconds++) {
      world.pass(1000);
      world.begin();
      slow.room = 1;
      slow.handlers.drain();
      world.say(world.connect(), `as ${TOKEN} alive`);
    }
    expect(slow.ended).toBe(false);
    world.pass(2000);
    expect(slow.ended).toBe(true);
  });

  test("a delivery over a slow network may take longer than 5 s", () => {
    backlog(128 << 10);
    const slow = call();
    slow.room = 100;
    answer(slow, `ready ${TOKEN}`);
    for (let seconds = 0; seconds < 30; seconds++) {
      world.pass(1000);
      slow.room = 4500;
      world.begin();
      slow.handlers.drain();
    }
    answer(slow, `received ${128 << 10}`);
    expect(world.account("alice").session!.outbox.unacked).toBe(0);
  });

  test("a failure halves the next delivery, down to 8 KiB, and a success doubles it", () => {
    world.begin();
    const text = Buffer.alloc(1000, "x");
    for (let i = 0; i < 300; i++) world.chat.send(world.account("bob"), world.account("alice"), text, 0, text.length);
    world.endTurns();
    answer(call(), `ready ${TOKEN}`, "received 0");
    const lengths: number[] = [];
    for (let i = 0; i < 6; i++) {
      const socket = call();
      lengths.push(announced(socket)[1]);
      answer(socket, `ready ${TOKEN}`);
      socket.end();
      world.say(world.connect(), `as ${TOKEN} alive`);
    }
    for (let i = 0; i < 3; i++) {
      const socket = call();
      const [position, bytes] = announced(socket);
      lengths.push(bytes);
      answer(socket, `ready ${TOKEN}`, `received ${position + bytes}`);
    }
    expect(lengths.map((bytes) => bytes >> 10)).toEqual([128, 64, 32, 16, 8, 8, 8, 16, 32]);
  });

  test("a client that replies with more than two short lines is disconnected", () => {
    const socket = call();
    for (let bytes = 0; bytes < 600; bytes += 100) socket.handlers.data(Buffer.alloc(100, "x"));
    expect(socket.ended).toBe(true);
  });

  test("a fault in the handler of a call is reported and ends only that call", () => {
    const { outbox } = world.account("alice").session!;
    outbox.rewind = () => {
      throw new Error("a fault");
    };
    const socket = call();
    answer(socket, `ready ${TOKEN}`);
    expect(world.faults.map(String)).toEqual(["Error: a fault"]);
    expect(socket.ended).toBe(true);
  });

  test("the last call of a slow client includes the goodbye", () => {
    const [bob] = world.online("bob") as [TestPeer];
    for (const pauseMs of [300, 600, 1100, 2100, KEEPING_UP_MS + 500]) {
      call().end();
      world.pass(pauseMs);
    }
    expect(calls).toEqual([]);
    world.say(bob, ...Array<string>(1100).fill(`broadcast ${"x".repeat(1000)}`));
    expect(world.account("alice").session).toBe(null);
    const last = call();
    answer(last, `ready ${TOKEN}`);
    expect(last.written.slice(-13)).toBe("goodbye slow\n");
  });

  describe("the calls of ended sessions", () => {
    /** Alice logs in that many times. Her calls get no reply. */
    function logins(times: number): void {
      for (let i = 0; i < times; i++) world.say(world.connect(), "login alice secret callback=2000");
    }

    const open = (): number => calls.filter(({ ended }) => !ended).length;

    test("one user has at most 32 calls at once, that of the live session included", () => {
      logins(100);
      expect(open()).toBe(32);
      const living = calls.at(-1)!;
      expect(living.ended).toBe(false);
      calls = [living];
      world.login("bob");
      world.announce();
      answer(call(), `ready ${world.account("alice").session!.token}`, "received 0");
      expect(announced(call())).toEqual([0, "joined bob\n".length]);
    });

    test("a call counts until its descriptor is closed", () => {
      world.chat.limits.callbacksMax = 1;
      const [socket] = calls as [Socket];
      const { closed } = socket.handlers;
      socket.handlers.closed = () => {};
      world.pass(5100);
      expect(socket.ended).toBe(true);
      world.pass(1000);
      expect(calls).toHaveLength(1);
      world.begin();
      closed();
      world.pass(1000);
      expect(calls).toHaveLength(2);
    });

    test("a logout ends the current call", () => {
      world.say(world.connect(), `as ${TOKEN} logout`);
      expect(calls.map(({ ended }) => ended)).toEqual([true]);
    });

    test("a live session takes the place of an ended one at once", () => {
      world.chat.limits.callbacksMax = 10;
      logins(20);
      expect(open()).toBe(10);
      calls = calls.filter(({ ended }) => !ended);
      world.chat.accounts.add("carol", "secret");
      world.say(world.connect(), "login carol secret callback=2000");
      expect(open()).toBe(10);
      expect(calls.map(({ ended }) => ended)).toEqual([true, ...Array<boolean>(10).fill(false)]);
      const carol = calls.at(-1)!;
      world.pass(1000);
      carol.handlers.open();
      answer(carol, `ready ${world.account("carol").session!.token}`, "received 0");
      expect(world.account("carol").session!.lastActivityMs).toBe(world.chat.wheel.nowMs);
    });

    test("their memory counts towards streamsBytesMax and is freed first", () => {
      const { chat } = world;
      chat.limits.streamsBytesMax = 1 << 20;
      answer(call(), `ready ${TOKEN}`, "received 0");
      for (let i = 0; i < 5; i++) {
        const { outbox } = world.account("alice").session!;
        world.begin();
        outbox.append(Buffer.alloc(300_000, "x"));
        world.endTurns();
        logins(1);
      }
      expect(chat.departing.size).toBe(5);
      chat.sweep();
      const { heldBytes } = chat.departing;
      expect(heldBytes).toBeLessThanOrEqual(1 << 20);
      expect(heldBytes).toBeGreaterThan(0);
      expect(chat.presence.online).toHaveLength(1);
      world.pass(60_000);
      expect(chat.departing.size).toBe(0);
    });
  });
});

test("the connection of an as is closed after its reply, also after a refusal", async () => {
  const alice = await Phone.login("alice");
  for (const request of [`as ${alice.token} login alice x`, `as ${alice.token} dance`, `as ${"A".repeat(22)} online`]) {
    const wire = await server.connect();
    wire.sendLines(request);
    expect(await wire.line()).toStartWith("err ");
    await wire.expectEnd();
  }
});
