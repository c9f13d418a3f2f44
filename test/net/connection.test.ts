import { describe, expect, test } from "bun:test";
import { closeLargest } from "../../src/net/admission.ts";
import { Connection, Connections } from "../../src/net/connection.ts";
import { type AcceptedSocket, TcpTransport } from "../../src/net/tcp-transport.ts";
import type { SocketEvents } from "../../src/net/transport.ts";
import {
  ACK_BYTES_MAX,
  INPUT_BYTES_MAX,
  NAMES_PER_REQUEST,
  RECEIVERS_PER_WORK,
  WORK_BYTES,
  WORK_PER_TURN,
  LINE_BYTES_MAX,
  LINGER_BYTES_MAX,
  LINGER_MS,
  type Limits,
  WORK_PER_VISIT,
  WORK_STORED,
  SKIPPED_BYTES_PER_REQUEST,
} from "../../src/limits.ts";
import { BLOCK_MS, SILENCE_MS, type TestPeer, World } from "../support/chat.ts";
import { Wire } from "../support/simulated-transport.ts";

/** A connection over the loopback: its accepted end, its far end, and what the far end has received. */
async function ends(drained: () => void) {
  const received = { text: "", until: (_end: string): Promise<void> => Promise.resolve() };
  const accepted = Promise.withResolvers<AcceptedSocket>();
  const listener = Bun.listen<SocketEvents | null>({
    hostname: "127.0.0.1",
    port: 0,
    data: null,
    socket: { open: accepted.resolve, data: () => {}, drain: drained },
  });
  let look = (): void => {};
  const far = await Bun.connect({
    hostname: "127.0.0.1",
    port: listener.port,
    socket: {
      data: (_socket, chunk) => {
        received.text += chunk.toString("latin1");
        look();
      },
    },
  });
  received.until = (end) =>
    new Promise((resolve) => {
      look = () => void (received.text.endsWith(end) && resolve());
      look();
    });
  return { near: await accepted.promise, far, received, stop: () => listener.stop(true) };
}

test("a broadcast does not overtake the reply to a login that waits for a full socket", async () => {
  const world = new World(["alice", "bob"]);
  const [alice] = world.online("alice");
  let drain = (): void => {};
  const { near, far, received, stop } = await ends(() => drain());
  far.pause();
  const filler = Buffer.alloc(64 << 10, "x");
  while (near.write(filler) === filler.length);
  const it = new Connection(new Connections(world.chat), new TcpTransport(near), "127.0.0.1");
  world.begin();
  it.data(Buffer.from("login bob secret\n"));
  world.endTurns();
  world.announce();
  // A broadcast is sent, and in the same turn the socket accepts bytes again.
  drain = () => {
    drain = () => {};
    world.begin();
    alice!.feed(Buffer.from("broadcast one\n"));
    world.chat.announcements.flush();
    it.drain();
    world.endTurns();
  };
  far.resume();
  await received.until("one\n");
  expect(received.text.replace(/^x*/, "")).toMatch(/^ok \S+ 35\nbroadcast alice one\n$/);
  stop();
});

test("a closed connection writes nothing, since its descriptor may belong to another socket", async () => {
  const world = new World(["bob"]);
  const { near, received, stop } = await ends(() => {});
  const it = new Connection(new Connections(world.chat), new TcpTransport(near), "127.0.0.1");
  world.begin();
  it.data(Buffer.from("login bob secret\n"));
  world.endTurns();
  const bytes = Buffer.from("first");
  expect(it.write(bytes, 0, 5)).toBe(5);
  it.closed();
  expect(it.write(bytes, 0, 5)).toBe(0);
  near.write("end");
  await received.until("end");
  expect(received.text).toMatch(/^ok \S+ 35\nfirstend$/);
  stop();
});

describe("when the disk still syncs an earlier turn, the reply to a login or resume", () => {
  /** The next turn is being synced until the returned function is called. */
  const slowDisk = (world: World): (() => Promise<void>) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const saves = world.saves;
    world.saves = () => {
      world.saves = saves;
      return promise;
    };
    return () => {
      resolve();
      return world.later();
    };
  };

  test("comes before the session's lines of that turn on the resuming connection", async () => {
    const first = new Wire();
    const [reply] = first.say("login alice secret resumable");
    const token = reply!.split(" ")[1]!;
    const second = new Wire({}, first.world, first.all);
    const sync = slowDisk(first.world);
    expect(first.say("message bob one")).toEqual([]);
    expect(second.say(`resume ${token} 0`)).toEqual([]);
    await sync();
    expect(second.read()).toEqual(["ok 16", "ok stored"]);
  });

  test("comes after the reply to an earlier request, and before the session's next lines", async () => {
    const wire = new Wire();
    const sync = slowDisk(wire.world);
    expect(wire.say("alive")).toEqual([]);
    expect(wire.say("login alice secret")).toEqual([]);
    await sync();
    expect([...wire.read(), ...wire.say("alive")]).toEqual([
      expect.stringMatching(/^err not_logged_in/),
      expect.stringMatching(/^ok token\d+ 35$/),
      "ok",
    ]);
  });
});

describe("a connection over TLS whose socket accepts nothing", () => {
  const setUp = (isEncrypted: boolean): Wire => {
    const wire = new Wire({}, undefined, undefined, isEncrypted);
    wire.say("login alice secret");
    wire.room = 1;
    wire.say("alive");
    return wire;
  };
  /** The client sends `alive` every five seconds for `ms`. */
  const beat = (wire: Wire, ms: number): void => {
    for (let left = ms; left > 0; left -= 5_000) {
      wire.world.pass(5_000);
      wire.feed("alive\n");
    }
  };

  test("is closed after the idle timeout, since the runtime reports a fatal TLS error in no other way", () => {
    const wire = setUp(true);
    beat(wire, SILENCE_MS - 5_000);
    expect(wire.shut).toBe(false);
    beat(wire, 10_000);
    expect(wire.shut).toBe(true);
  });

  test("stays open when it accepts some bytes meanwhile, and so does a plain TCP connection", () => {
    const [wire, plain] = [setUp(true), setUp(false)];
    beat(wire, SILENCE_MS - 5_000);
    wire.room = 1e6;
    wire.world.begin();
    wire.connection.drain();
    wire.world.endTurns();
    for (const each of [wire, plain]) {
      beat(each, 2 * SILENCE_MS);
      expect(each.shut).toBe(false);
    }
  });
});

describe("a plain TCP connection whose requests wait for unsent output", () => {
  /** Alice sends messages to herself and reads nothing. */
  const setUp = (): Wire => {
    const wire = new Wire();
    wire.say("login alice secret");
    wire.room = 1;
    wire.say(...Array<string>(100).fill(`message alice ${"x".repeat(3000)}`));
    expect(wire.connection.paused).toBe(true);
    return wire;
  };

  test("is closed after the idle timeout, since its heartbeat is not read", () => {
    const wire = setUp();
    wire.world.pass(SILENCE_MS - 500);
    expect(wire.shut).toBe(false);
    wire.world.pass(1000);
    expect(wire.hungUp).toBe(true);
  });

  test("stays open when its socket accepts some bytes now and then", () => {
    const wire = setUp();
    for (let i = 0; i < 5; i++) {
      wire.world.pass(SILENCE_MS - 500);
      wire.room = 1000;
      wire.world.begin();
      wire.connection.drain();
      wire.world.endTurns();
    }
    expect(wire.shut).toBe(false);
  });
});

test("a drain event without unsent output, as the runtime sends after each pause, causes no write", () => {
  const wire = new Wire();
  const [reply] = wire.say("login alice secret");
  wire.connection.drain();
  expect(reply).toStartWith("ok ");
  expect(wire.connection.replies.dirty).toBe(false);
});

describe("the state of a connection", () => {
  test("passes through all states once, from the login to the closed socket", () => {
    const wire = new Wire();
    const { connection } = wire;
    const states: string[] = [connection.state];
    wire.say("login alice secret");
    states.push(connection.state);
    wire.room = 0;
    wire.say("logout");
    states.push(connection.state);
    wire.room = 1e6;
    wire.world.begin();
    connection.drain();
    wire.world.endTurns();
    states.push(connection.state);
    connection.closed();
    connection.closed();
    states.push(connection.state);
    expect(states).toEqual(["unauthenticated", "open", "draining", "shut", "closed"]);
  });

  test("never goes back: a closing connection gets no session", () => {
    const wire = new Wire();
    wire.connection.close();
    const [alice] = wire.world.online("alice");
    expect(() => wire.connection.attach(alice!.session!)).toThrow("cannot change from shut to open");
    expect(wire.connection.session).toBeNull();
  });
});

describe("a flood of invalid lines", () => {
  const BAD = ["nonsense", "", "message", "message bob hi", "x".repeat(5000)];

  test("closes a connection without a session with goodbye flood, after the replies", () => {
    const wire = new Wire({ badLinesMax: 20 });
    const replies = wire.say(...Array.from({ length: 30 }, (_, i) => BAD[i % BAD.length]!));
    expect(replies.slice(0, 5)).toEqual([
      "err unknown_command",
      "err bad_request the line is empty",
      "err not_logged_in",
      "err not_logged_in",
      "err line_too_long",
    ]);
    expect(replies).toHaveLength(21);
    expect(replies.at(-1)).toBe("goodbye flood");
    expect(wire.shut).toBe(true);
  });

  test("ends a session, and the others receive left with the reason", () => {
    const wire = new Wire({ badLinesMax: 20 });
    wire.say("login alice secret");
    const [bob] = wire.world.online("bob");
    wire.read();
    const replies = wire.say(...Array<string>(25).fill("nonsense"));
    expect(replies).toEqual([...Array<string>(20).fill("err unknown_command"), "goodbye flood"]);
    wire.world.announce();
    expect(bob!.read()).toEqual(["left alice flood"]);
    expect(wire.shut).toBe(true);
  });

  test("is read and dropped up to LINGER_BYTES_MAX, then the connection is reset", () => {
    const wire = new Wire({ badLinesMax: 20 });
    wire.say(...Array<string>(20).fill("nonsense"));
    const piece = "x".repeat(64 << 10);
    for (let bytes = 0; bytes < LINGER_BYTES_MAX; bytes += piece.length) wire.feed(piece);
    expect(wire.hungUp).toBe(false);
    wire.feed("x");
    expect(wire.hungUp).toBe(true);
  });

  test("leads to a reset after LINGER_MS, also when the lines were too long and above the rate limit", () => {
    const wire = new Wire({ badLinesMax: 20, requestsPerSecondMax: 30, lineBytesMax: 100 });
    const line = "x".repeat(4 * SKIPPED_BYTES_PER_REQUEST);
    expect(wire.say(...Array<string>(20).fill(line)).at(-1)).toBe("goodbye flood");
    wire.world.pass(LINGER_MS - 100);
    expect(wire.hungUp).toBe(false);
    wire.world.pass(200);
    expect(wire.hungUp).toBe(true);
  });

  test("is counted in consecutive lines, and wrong names and passwords are valid lines", () => {
    const wire = new Wire({ badLinesMax: 20, failedLoginsPerMinuteMax: 0 });
    const bad = Array<string>(19).fill("nonsense");
    wire.say(...bad, "login nobody x", ...bad, "login nobody x");
    wire.say(...Array<string>(50).fill("login nobody x"));
    expect(wire.say("login alice secret").at(-1)).toMatch(/^ok /);
    wire.say(...bad, "alive", ...bad, "message nobody hi", ...bad);
    expect(wire.say("alive")).toEqual(["ok"]);
  });

  test("is subject to the rate limit", () => {
    const wire = new Wire({ badLinesMax: 0, requestsPerSecondMax: 10 });
    expect(wire.say(...Array<string>(25).fill("nonsense")).length).toBeWithin(9, 11);
    expect(wire.reading).toBe(false);
    wire.world.pass(1000);
    expect(wire.read().length).toBeWithin(8, 12);
    expect(wire.reading).toBe(false);
    wire.world.pass(1000);
    expect(wire.read().length).toBeGreaterThan(3);
    expect(wire.reading).toBe(true);
  });
});

describe("a connection without a session", () => {
  test("is closed after loginMs, whatever it sends; a connection with a session is not", () => {
    for (const login of ["login nobody x", "login alice secret"]) {
      const wire = new Wire({ loginMs: 100_000 });
      wire.say(login);
      for (let ms = 0; ms < 99_000; ms += 9_000) {
        wire.say("online");
        wire.world.pass(9_000);
      }
      expect(wire.shut).toBe(false);
      wire.world.pass(1_200);
      expect(wire.shut).toBe(login.startsWith("login nobody"));
    }
  });

  test("is not closed while its password is verified, and then gets a session", async () => {
    const wire = new Wire({ loginMs: 1000 });
    const verdict = Promise.withResolvers<boolean>();
    wire.world.verify = () => verdict.promise;
    wire.say("login alice secret");
    wire.world.pass(60_000);
    expect(wire.shut).toBe(false);
    verdict.resolve(true);
    await wire.world.later();
    expect(wire.read()[0]).toMatch(/^ok /);
  });

  test("that closes holds no memory for replies, neither for unsent ones nor for those that come later", async () => {
    const wire = new Wire();
    const verdict = Promise.withResolvers<boolean>();
    wire.world.verify = () => verdict.promise;
    wire.room = 0;
    wire.feed("online\nlogin bob guess\n");
    expect(wire.world.chat.outboxMemory.bytes).toBeGreaterThan(0);
    wire.world.begin();
    wire.connection.closed();
    wire.world.endTurns();
    expect(wire.world.chat.outboxMemory.bytes).toBe(0);
    verdict.resolve(false);
    await wire.world.later();
    expect(wire.world.chat.outboxMemory.bytes).toBe(0);
  });

  test("that closes while its password is verified gets no session, and its other requests are dropped", async () => {
    const wire = new Wire();
    const verdict = Promise.withResolvers<boolean>();
    const alice = wire.world.connect();
    const [reply] = wire.world.ask(alice, "login alice secret resumable") as [string];
    alice.hangUp();
    const { session } = wire.world.account("alice");
    wire.world.verify = () => verdict.promise;
    wire.feed(`login bob guess\nresume ${reply.split(" ")[1]} 0\nlogin bob guess\n`);
    wire.world.begin();
    wire.connection.closed();
    wire.world.endTurns();
    verdict.resolve(false);
    await wire.world.later();
    expect([session!.peer, wire.connection.session]).toEqual([null, null]);
    const { open, unauthenticated, ready } = wire.all;
    expect([open.size, unauthenticated.size, ready.size]).toEqual([0, 0, 0]);
    wire.world.pass(SILENCE_MS + 200);
    expect(session!.endReason).toBe("expired");
    wire.world.pass(BLOCK_MS + 200);
    expect(wire.world.chat.wheel.armed).toBe(0);
  });

  test("is closed after loginMs also while it waits for the rate limit", () => {
    const wire = new Wire({ requestsPerSecondMax: 1, loginMs: 2000 });
    wire.feed("x".repeat(60_000));
    wire.world.pass(1900);
    expect(wire.shut).toBe(false);
    wire.world.pass(200);
    expect(wire.shut).toBe(true);
  });

  test("is closed after the idle timeout also when it waited for the rate limit before", () => {
    const wire = new Wire({ requestsPerSecondMax: 10 });
    expect(wire.say(...Array<string>(15).fill("online")).length).toBeWithin(9, 11);
    wire.world.pass(1000);
    expect(wire.read().length).toBeWithin(5, 7);
    wire.world.pass(SILENCE_MS - 1500);
    expect(wire.shut).toBe(false);
    wire.world.pass(1500);
    expect(wire.shut).toBe(true);
  });
});

test("a line that is too long counts by its bytes before it ends, and the next line is answered", () => {
  const wire = new Wire({ requestsPerSecondMax: 10, lineBytesMax: 100 });
  wire.feed("x".repeat(30 * SKIPPED_BYTES_PER_REQUEST));
  expect(wire.reading).toBe(false);
  wire.world.pass(1900);
  expect(wire.reading).toBe(false);
  wire.world.pass(400);
  expect(wire.reading).toBe(true);
  wire.feed("\nnonsense\n");
  wire.world.pass(1000);
  expect(wire.read()).toEqual(["err line_too_long", "err unknown_command"]);
});

test("lines that are too long count by their bytes, each of them once", () => {
  const wire = new Wire({ requestsPerSecondMax: 10, lineBytesMax: 100 });
  wire.feed(`${"x".repeat(4 * SKIPPED_BYTES_PER_REQUEST - 1)}\n`.repeat(6));
  wire.feed("alive\n");
  expect(wire.read()).toEqual(Array<string>(6).fill("err line_too_long"));
  // 30 tokens of 10 were taken, so 21 must be earned for the next request.
  wire.world.pass(1900);
  expect(wire.read()).toEqual([]);
  wire.world.pass(400);
  expect(wire.read()).toEqual(["err not_logged_in"]);
});

test("a broadcast counts as one more request for each ten receivers", () => {
  const wire = new Wire({ requestsPerSecondMax: 10 });
  const { world } = wire;
  const crowd = Array.from({ length: 40 }, (_, i) => `u${i}`);
  for (const name of crowd) world.chat.accounts.add(name, "secret");
  wire.say("login alice secret");
  world.online(...crowd);
  world.pass(5000);
  wire.read();
  wire.say(...Array<string>(50).fill("broadcast hi"));
  // Each counts as five requests, since 40 users receive it: two per second.
  world.pass(5000);
  wire.read();
  world.pass(5000);
  expect(wire.read()).toEqual(Array<string>(10).fill("ok 40"));
});

test.each(["", " resumable"])(
  "the requests of a session (%s) wait until the first mailbox portion is delivered",
  (kind) => {
    const world = new World(["alice", "bob"]);
    const [alice] = world.online("alice");
    const text = "x".repeat(3500);
    const count = Math.floor(ACK_BYTES_MAX / text.length);
    for (let i = 0; i < count; i++) world.say(alice!, `message bob ${text}`);
    const wire = new Wire({}, world);
    const replies = wire.say(`login bob secret${kind}`, "alive", "logout");
    for (let turns = 0; !wire.shut && turns < 100; turns++) {
      world.begin();
      world.endTurns();
    }
    const verbs = [...replies, ...wire.read()].map((line) => line.split(" ", 1)[0]);
    expect(verbs).toEqual(["ok", ...Array<string>(count).fill("stored"), "ok", "ok"]);
  },
);

test("while the disk is behind, a session's requests wait for its mailbox too, unless its stream is full", () => {
  const world = new World(["alice", "bob"]);
  const [alice] = world.online("alice");
  const text = "x".repeat(3500);
  const count = Math.ceil(ACK_BYTES_MAX / text.length);
  for (let i = 0; i < 2 * count; i++) world.say(alice!, `message bob ${i} ${text}`);
  Object.defineProperty(world.store, "isBusy", { get: () => true });
  world.begin();
  world.endTurns();
  const wire = new Wire({}, world);
  const verbs = wire.say("login bob secret resumable", "alive 0").map((line) => line.split(" ", 1)[0]);
  const { deliveredUnacked: fed } = world.account("bob").session!.delivery;
  expect(fed).toBeWithin(count - 1, count + 2);
  expect(verbs).toEqual(["ok", ...Array<string>(fed).fill("stored"), "ok"]);
  expect(wire.say("alive 0")).toEqual(["ok 16"]);
  expect(world.account("bob").session!.delivery.deliveredUnacked).toBe(fed);
});

test("while no request is taken, an incomplete one is read on, and requests wait in the order of their ends", () => {
  const world = new World(["alice"]);
  const all = new Connections(world.chat);
  const [first, second] = [new Wire({}, world, all), new Wire({}, world, all)];
  let isCongested = true;
  Object.defineProperty(world.store, "isCongested", { get: () => isCongested });
  first.feed("login alice sec");
  expect(first.reading).toBe(true);
  first.feed("ret resumable\n");
  expect(first.reading).toBe(false);
  expect(second.say("login alice secret resumable")).toEqual([]);
  isCongested = false;
  world.begin();
  all.serveReady();
  world.endTurns();
  expect(first.read().at(-1)).toBe("goodbye replaced");
  expect(second.read()).toEqual([expect.stringMatching(/^ok /)]);
});

describe("a connection with many requests at once", () => {
  /** Requests in one visit. */
  const VISIT = Math.ceil(WORK_PER_VISIT / (1 + "alive\n".length / WORK_BYTES));
  const alive = (count: number): Buffer => Buffer.from("alive\n".repeat(count));

  /** Connections of one server. `nextTurn` runs a turn, and returns whether ready connections needed it. */
  function setUp(count: number): { wires: Wire[]; nextTurn: () => boolean } {
    const world = new World(["alice", "bob"]);
    const all = new Connections(world.chat);
    const nextTurn = (): boolean => {
      const isNeeded = all.ready.size > 0;
      world.begin();
      all.serveReady();
      world.endTurns();
      return isNeeded;
    };
    return { wires: Array.from({ length: count }, () => new Wire({}, world, all)), nextTurn };
  }

  test("is answered in several turns, in order, and is not read meanwhile", () => {
    const { wires, nextTurn } = setUp(2);
    const [wire, other] = wires as [Wire, Wire];
    const turns = WORK_PER_TURN / WORK_PER_VISIT;
    wire.say("login alice secret");
    expect(wire.say(...Array<string>((turns + 1) * VISIT + 10).fill("alive"), "online", "logout")).toHaveLength(VISIT);
    expect(wire.reading).toBe(false);
    expect(other.say("alive")).toEqual(["err not_logged_in"]);
    nextTurn();
    expect(wire.read()).toHaveLength(turns * VISIT);
    wire.connection.end();
    expect(wire.shut).toBe(false);
    expect(nextTurn()).toBe(true);
    expect(wire.read().slice(9)).toEqual(["ok", "ok", "ok"]);
    expect(wire.shut).toBe(true);
    expect(nextTurn()).toBe(false);
  });

  test("takes turns with others like it, and a turn has at most WORK_PER_TURN for all of them", () => {
    const { wires, nextTurn } = setUp(6);
    const { world } = wires[0]!;
    world.begin();
    for (const { connection } of wires) connection.data(alive(3 * VISIT));
    world.endTurns();
    const answered = (): number[] => wires.map((wire) => wire.read().length / VISIT);
    expect(answered()).toEqual([1, 1, 1, 1, 1, 1]);
    const turns = [1, 2, 3, 4].map(() => (nextTurn(), answered()));
    expect(turns).toEqual([
      [1, 1, 1, 1, 0, 0],
      [1, 1, 0, 0, 1, 1],
      [0, 0, 1, 1, 1, 1],
      [0, 0, 0, 0, 0, 0],
    ]);
  });

  test("counts only its own work: one request more than a visit does not delay others", () => {
    const { wires, nextTurn } = setUp(12);
    const { world } = wires[0]!;
    for (let times = 0; times < 3; times++) {
      world.begin();
      for (const { connection } of wires) connection.data(alive(VISIT + 1));
      world.endTurns();
      nextTurn();
      expect(wires.map((wire) => wire.read().length)).toEqual(wires.map(() => VISIT + 1));
      expect(wires.every((wire) => wire.reading)).toBe(true);
    }
  });

  test("is charged for the bytes of lines, the receivers of broadcasts and stored messages", () => {
    const names = ["alice", "bob", ...Array.from({ length: 100 }, (_, i) => `u${i}`)];
    const world = new World(names);
    const all = new Connections(world.chat);
    const work = (line: string): number => {
      const before = world.chat.rates.work;
      expect(wire.say(line)).toHaveLength(1);
      return world.chat.rates.work - before;
    };
    const wire = new Wire({}, world, all);
    wire.say("login alice secret");
    const text = "x".repeat(4 * WORK_BYTES);
    expect(work(`nonsense ${text}`)).toBeWithin(5, 5.1);
    expect(work(`message bob ${text}`)).toBeWithin(9 + WORK_STORED, 9.1 + WORK_STORED);
    for (const name of names.slice(2)) world.login(name);
    wire.read();
    world.announce();
    wire.read();
    expect(work("broadcast hi")).toBeWithin(1 + 100 / RECEIVERS_PER_WORK, 1.1 + 100 / RECEIVERS_PER_WORK);
    expect(work("online")).toBeWithin(1 + 100 / NAMES_PER_REQUEST, 1.3 + 100 / NAMES_PER_REQUEST);
  });

  test("waits in the queue with new chunks too, until a visit leaves no requests over", () => {
    const { wires, nextTurn } = setUp(2);
    const [wire] = wires as [Wire];
    const { world } = wire;
    const says = (count: number): number => {
      world.begin();
      wire.connection.data(alive(count));
      world.endTurns();
      return wire.read().length;
    };
    expect(says(VISIT + 1)).toBe(VISIT);
    nextTurn();
    expect(wire.read()).toHaveLength(1);
    expect(says(2 * VISIT)).toBe(VISIT); // Its last visit left nothing.
    // A visit that leaves nothing over resumes reading, and the kernel's bytes arrive in the same turn.
    wire.connection.data(alive(VISIT));
    expect(wire.read()).toEqual([]);
    while (nextTurn());
    expect(wire.read()).toHaveLength(2 * VISIT);
    expect(says(1)).toBe(1);
  });

  test("skips lines that are too long in turns of bounded work, also below the rate limit", () => {
    const { wires, nextTurn } = setUp(6);
    const { world } = wires[0]!;
    const { rates } = world.chat;
    const bytes = 160 * WORK_BYTES;
    const say = (): void => {
      world.begin();
      for (const { connection } of wires) connection.data(Buffer.alloc(bytes, "x"));
      world.endTurns();
    };
    const reading = (): number => wires.filter((wire) => wire.reading).length;
    say();
    expect([reading(), nextTurn(), reading()]).toEqual([0, true, 6]);
    const before = rates.work;
    say();
    expect(rates.work).toBe(before);
    const turns = [1, 2].map(() => (nextTurn(), [rates.work - before, reading()]));
    expect(turns).toEqual([
      [4 * 160, 0],
      [6 * 160, 6],
    ]);
  });

  test("that closes is not answered any more, and nothing of it is kept", () => {
    const { wires, nextTurn } = setUp(1);
    const [wire] = wires as [Wire];
    wire.say("login alice secret");
    wire.say(...Array<string>(2 * VISIT).fill("alive"), "message bob hi");
    wire.connection.closed();
    while (nextTurn());
    expect(wire.read()).toEqual([]);
    expect(wire.world.store.read("bob", 0, 1e9)).toEqual([]);
    const { open, unauthenticated, ready } = wire.all;
    expect([open.size, unauthenticated.size, ready.size]).toEqual([0, 0, 0]);
  });
});

describe("the rate of requests", () => {
  const LIMIT = { requestsPerSecondMax: 10 };
  const SECONDS = 20;
  /** The tokens at first, and those earned meanwhile. */
  const ALLOWED = 10 + 10 * SECONDS;

  class Clients {
    readonly #first: Wire;
    readonly world: World;

    constructor(limits: Partial<Limits> = LIMIT) {
      const names = ["alice", "bob", ...Array.from({ length: 20 }, (_, i) => `u${i}`)];
      this.#first = new Wire({}, new World(names, { limits }));
      this.world = this.#first.world;
    }

    connect(address?: string): Wire {
      return new Wire({}, this.world, this.#first.all, false, address);
    }

    /** Calls `act` that many times per second for SECONDS. */
    repeat(times: number, act: () => void): void {
      for (let i = 0; i < times * SECONDS; i++) {
        act();
        this.world.pass(1000 / times);
      }
    }
  }

  test("applies to a session, also when it is resumed on new connections again and again", () => {
    const clients = new Clients();
    const first = clients.connect();
    const token = first.say("login alice secret resumable")[0]!.split(" ")[1];
    let done = 0;
    let last = first;
    clients.repeat(5, () => {
      last.feed("alive\n".repeat(100));
      last = clients.connect();
      last.feed(`resume ${token} 0\n`);
    });
    done = clients.world.account("alice").session!.received / "alive\n".length;
    expect(done).toBeWithin(50, ALLOWED + 1);
  });

  test("applies to a user, also when each login begins a new session", () => {
    const clients = new Clients();
    let done = 0;
    clients.repeat(5, () => {
      const wire = clients.connect();
      done += wire.say("login alice secret", ...Array<string>(20).fill("alive")).filter((line) => line === "ok").length;
      clients.world.begin();
      wire.connection.closed();
      clients.world.endTurns();
    });
    expect(done).toBeWithin(1, ALLOWED + 1);
  });

  test("allows a burst of one second's requests after a long pause, and no more", () => {
    const clients = new Clients();
    const plain = clients.connect();
    plain.say("login alice secret");
    const token = clients.connect().say("login bob secret callback=5000")[0]!.split(" ")[1];
    clients.world.pass(20_000);
    const plainAtOnce = plain.say(...Array<string>(100).fill("alive")).filter((line) => line === "ok").length;
    const wires = Array.from({ length: 100 }, () => clients.connect());
    const callbackAtOnce = wires.filter((wire) => wire.say(`as ${token} alive`)[0] === "ok 0").length;
    expect([plainAtOnce, callbackAtOnce]).toEqual([10, 10]);
  });

  test("applies to logins, which are delayed and not refused", () => {
    const clients = new Clients();
    const wires: Wire[] = [];
    clients.repeat(15, () => {
      const wire = clients.connect(`192.0.2.${1 + (wires.length % 50)}`);
      wire.feed("login alice secret\n");
      wires.push(wire);
    });
    const replies = (): string[] => wires.map((wire) => wire.read()[0] ?? "");
    const first = replies();
    expect(first.filter((line) => line.startsWith("ok ")).length).toBeWithin(ALLOWED - 20, ALLOWED + 1);
    clients.world.pass(20_000);
    expect([...first, ...replies()].filter((line) => line.startsWith("ok "))).toHaveLength(wires.length);
    expect(first.filter((line) => line.startsWith("err"))).toEqual([]);
  });

  test("applies to the requests of a callback session on many connections, which are acted on in order", () => {
    const clients = new Clients();
    const { world } = clients;
    const [bob] = world.online("bob") as [TestPeer];
    const token = clients.connect().say("login alice secret callback=5000")[0]!.split(" ")[1];
    const wires: Wire[] = [];
    clients.repeat(15, () => {
      const wire = clients.connect();
      wire.feed(`as ${token} message bob ${wires.length}\n`);
      wires.push(wire);
    });
    const received = (): string[] => bob.read().flatMap((line) => /^message alice (\d+)/.exec(line)?.[1] ?? []);
    const first = received();
    expect(first.length).toBeWithin(ALLOWED - 20, ALLOWED + 1);
    world.pass(15_000);
    const all = [...first, ...received()];
    expect(all).toEqual(wires.map((_, i) => String(i)));
    expect(wires.map((wire) => wire.read())).toEqual(wires.map(() => ["ok sent"]));
    expect(wires.every(({ shut }) => shut)).toBe(true);
    expect(world.account("alice").session).not.toBeNull();
  });

  test("charges the broadcasts of a callback session by their receivers", () => {
    const clients = new Clients();
    const { world } = clients;
    world.online(...Array.from({ length: 20 }, (_, i) => `u${i}`));
    const token = clients.connect().say("login alice secret callback=5000")[0]!.split(" ")[1];
    const wires: Wire[] = [];
    clients.repeat(10, () => {
      const wire = clients.connect();
      wire.feed(`as ${token} broadcast hi\n`);
      wires.push(wire);
    });
    // Each counts as three requests, since 20 users receive it.
    expect(wires.filter((wire) => wire.read()[0] === "ok 20").length).toBeWithin(50, ALLOWED / 3 + 2);
  });

  test("charges a name list by its length", () => {
    const names = Array.from({ length: 40 }, (_, i) => `name${i}`);
    const clients = new Clients();
    for (const name of names) clients.world.chat.accounts.add(name, "secret");
    clients.world.online(...names);
    const wire = clients.connect();
    wire.say("login alice secret");
    clients.world.pass(5000);
    wire.read();
    const lists = wire.say(...Array<string>(100).fill("online")).length;
    clients.world.pass(10_000);
    // Each counts as five requests, since there are 40 names.
    expect(lists + wire.read().length).toBeWithin(18, 26);
  });

  test("applies to the connections without a session of one address, and not to other addresses", () => {
    const clients = new Clients({ ...LIMIT, badLinesMax: 0 });
    let done = 0;
    clients.repeat(5, () => {
      const wire = clients.connect();
      done += wire.say(...Array<string>(20).fill("alive")).length;
      clients.world.begin();
      wire.connection.closed();
      clients.world.endTurns();
    });
    expect(done).toBeWithin(50, ALLOWED + 1);
    expect(clients.connect("192.0.2.2").say("login bob secret")[0]).toMatch(/^ok /);
  });

  test("of an address is shared by its connections in turn: one with many requests does not block the others", () => {
    const clients = new Clients({ ...LIMIT, badLinesMax: 0 });
    const crowd = clients.connect();
    crowd.feed("alive\n".repeat(2000));
    for (let i = 0; i < 10; i++) {
      const wire = clients.connect();
      wire.feed(`login u${i} secret\n`);
      clients.world.pass(500);
      expect(wire.read()[0]).toMatch(/^ok /);
    }
    expect(crowd.read().length).toBeWithin(30, 61);
  });

  test("applies to each loopback connection by itself, and to all together with limitsLoopback", () => {
    for (const limitsLoopback of [false, true]) {
      const clients = new Clients({ ...LIMIT, limitsLoopback });
      const replies = [1, 2, 3].map(() => clients.connect("127.0.0.1").say(...Array<string>(20).fill("alive")).length);
      expect(replies).toEqual(limitsLoopback ? [10, 0, 0] : [10, 10, 10]);
    }
  });

  test("of an address is not used by logins, resumes and callback requests that succeed", () => {
    const clients = new Clients();
    const tokens = Array.from({ length: 20 }, (_, i) => {
      const kind = i % 2 === 0 ? "resumable" : "callback=5000";
      return clients.connect().say(`login u${i} secret ${kind}`)[0]!.split(" ")[1];
    });
    for (const [i, token] of tokens.entries()) {
      const wire = clients.connect();
      expect(wire.say(i % 2 === 0 ? `resume ${token} 0` : `as ${token} alive`)[0]).toBe("ok 0");
    }
    expect(clients.connect().say("alive")).toEqual(["err not_logged_in"]);
  });

  test("keeps no requests of closed connections", () => {
    const clients = new Clients();
    const token = clients.connect().say("login alice secret callback=5000")[0]!.split(" ")[1];
    clients.world.chat.rates.charge(clients.world.account("alice"), 20, 0);
    const stays = clients.connect();
    stays.feed(`as ${token} unblock bob\n`);
    for (let i = 0; i < 1000; i++) {
      const wire = clients.connect();
      wire.feed(`as ${token} block bob\n`);
      clients.world.begin();
      wire.connection.closed();
      clients.world.endTurns();
    }
    expect(clients.world.account("alice").allowance!.delayed.length).toBeWithin(1, 4);
    const last = clients.connect();
    last.feed(`as ${token} alive\n`);
    clients.world.pass(3000);
    expect([stays.read(), last.read()]).toEqual([["err not_blocked"], ["ok 0"]]);
  });

  test("does not let a session expire while its requests wait", () => {
    const clients = new Clients();
    const { world } = clients;
    const token = clients.connect().say("login alice secret callback=5000")[0]!.split(" ")[1];
    world.chat.rates.charge(world.account("alice"), 1000, 0);
    const wire = clients.connect();
    wire.feed(`as ${token} alive\n`);
    world.pass(90_000);
    expect(wire.read()).toEqual([]);
    world.pass(15_000);
    expect(wire.read()).toEqual(["ok 0"]);
  });
});

test.each(["resumable", "callback=5000"])(
  "consecutive invalid lines of a session (%s) count across its connections",
  (kind) => {
    const first = new Wire({ badLinesMax: 20 });
    const token = first.say(`login alice secret ${kind}`)[0]!.split(" ")[1];
    const { world } = first;
    const isCallback = kind.startsWith("callback");
    for (let i = 0; i < 19; i++) {
      const wire = new Wire({}, world, first.all);
      if (isCallback) wire.say(`as ${token} nonsense`);
      else wire.say(`resume ${token} 0`, "nonsense");
      expect(world.account("alice").session).not.toBeNull();
    }
    const wire = new Wire({}, world, first.all);
    wire.say(...(isCallback ? [`as ${token} nonsense`] : [`resume ${token} 0`, "nonsense"]));
    expect(world.account("alice").session).toBeNull();
  },
);

test("above INPUT_BYTES_MAX the longest unfinished lines are closed, those without a session first", () => {
  const first = new Wire({ lineBytesMax: LINE_BYTES_MAX, requestsPerSecondMax: 0 });
  first.say("login alice secret");
  const count = Math.ceil(INPUT_BYTES_MAX / LINE_BYTES_MAX) + 10;
  const small = new Wire({}, first.world, first.all);
  const large = Array.from({ length: count }, () => new Wire({}, first.world, first.all));
  const long = "x".repeat(LINE_BYTES_MAX - 1);
  for (const wire of [first, ...large]) wire.feed(long);
  small.feed("login bo");
  closeLargest(first.all.open);
  expect(large.filter(({ hungUp }) => hungUp).length).toBeWithin(10, count);
  expect(large.filter(({ hungUp }) => !hungUp).length).toBeGreaterThan(50);
  expect([first.hungUp, small.hungUp]).toEqual([false, false]);
  expect(small.say("b secret")[0]).toMatch(/^ok /);
});

describe("changed limits apply to existing connections:", () => {
  const change = ({ world, all }: Wire, limits: Partial<Limits>): void => {
    world.begin();
    Object.assign(world.chat.limits, limits);
    all.limitsChanged();
    world.endTurns();
  };

  test("requests of a session that wait for a low rate are read when the rate is raised", () => {
    const wire = new Wire({ requestsPerSecondMax: 0.01 });
    expect(wire.say(`login alice secret`, "alive", "alive", "alive")).toHaveLength(1);
    change(wire, { requestsPerSecondMax: 0 });
    wire.world.pass(64);
    expect([...wire.read(), ...wire.say("alive")]).toEqual(["ok", "ok", "ok", "ok"]);
    change(wire, { requestsPerSecondMax: 1 });
    wire.world.pass(64);
    expect(wire.say("alive", "alive", "alive")).toEqual(["ok"]);
    wire.world.pass(1100);
    expect(wire.read()).toEqual(["ok"]);
  });

  test("a login that waits for the rate of its user is acted on when the rate is raised", () => {
    const wire = new Wire({ requestsPerSecondMax: 0.01 });
    wire.say("login alice secret");
    const other = new Wire({}, wire.world, wire.all, false, "192.0.2.2");
    expect(other.say("login alice secret")).toEqual([]);
    change(wire, { requestsPerSecondMax: 100 });
    wire.world.pass(192);
    expect(other.read()).toEqual([expect.stringMatching(/^ok token/)]);
  });

  test("a line is too long by the new length, and one that was skipped in part stays too long", () => {
    const wire = new Wire({ lineBytesMax: 64 });
    wire.say("login alice secret");
    wire.feed("x".repeat(64));
    change(wire, { lineBytesMax: 200 });
    expect(wire.say("alive", `message bob ${"y".repeat(100)}`)).toEqual([
      "err line_too_long",
      expect.stringMatching(/^ok stored/),
    ]);
    change(wire, { lineBytesMax: 64 });
    expect(wire.say(`message bob ${"y".repeat(100)}`)).toEqual(["err line_too_long"]);
  });

  test("a connection without a session is closed by the new login time", () => {
    const wire = new Wire({ loginMs: 30_000 });
    wire.world.pass(5000);
    change(wire, { loginMs: 10_000 });
    wire.world.pass(4000);
    expect(wire.shut).toBe(false);
    wire.world.pass(1200);
    expect(wire.shut).toBe(true);
    const other = new Wire({ loginMs: 30_000 });
    other.world.pass(5000);
    change(other, { loginMs: 1000 });
    expect(other.shut).toBe(true);
  });

  test("more consecutive invalid lines than the new limit lead to goodbye flood", () => {
    const wire = new Wire({ badLinesMax: 0 });
    expect(wire.say(...Array.from({ length: 20 }, () => "rubbish"))).toHaveLength(20);
    const session = new Wire({}, wire.world, wire.all);
    expect(session.say("login alice secret", ...Array.from({ length: 20 }, () => "rubbish"))).toHaveLength(21);
    change(wire, { badLinesMax: 10 });
    expect(wire.say("rubbish").at(-1)).toBe("goodbye flood");
    expect(session.say("rubbish").at(-1)).toBe("goodbye flood");
  });
});
