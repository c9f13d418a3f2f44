import { beforeEach, describe, expect, test } from "bun:test";
import pino from "pino";
import { LINGER_MS, RELAY_DIALS_MAX, RELAY_RETRY_MS, RELAY_WAIT_MS } from "../../src/limits.ts";
import { newNonce, proofOf } from "../../src/net/cluster-handshake.ts";
import type { DialEvents, Owner } from "../../src/net/owner-link.ts";
import { parseProxyHeader } from "../../src/net/proxy-header.ts";
import { Relays } from "../../src/net/relay.ts";
import type { Transport } from "../../src/net/transport.ts";
import { World } from "../support/chat.ts";
import { Random, seedFor } from "../support/random.ts";
import { Wire } from "../support/simulated-transport.ts";

const SECRET = Buffer.from("the secret of the cluster");
const OWNER: Owner = { host: "10.0.0.1", port: 6010, epoch: 5 };
const NEXT: Owner = { host: "10.0.0.2", port: 6010, epoch: 9 };
const LOGIN = "login alice secret";
const OK = "ok token 35";

/** The owner's end of one connection of the gateway, played by a test. */
class OwnerEnd {
  readonly owner: Owner;
  readonly events: DialEvents;
  readonly #world: World;
  #output = Buffer.alloc(0);
  room = Number.POSITIVE_INFINITY;
  reading = true;
  shut = false;
  ended = false;
  wasReset = false;

  constructor(owner: Owner, events: DialEvents, world: World) {
    this.owner = owner;
    this.events = events;
    this.#world = world;
  }

  event(happen: () => void): void {
    this.#world.begin();
    happen();
    this.#world.endTurns();
  }

  connected(): void {
    const transport: Transport = {
      isEncrypted: false,
      isWebSocket: false,
      write: (bytes, start, count) => {
        const taken = Math.min(this.room, count);
        this.room -= taken;
        this.#output = Buffer.concat([this.#output, bytes.subarray(start, start + taken)]);
        return taken;
      },
      send: () => 0,
      pause: () => void (this.reading = false),
      resume: () => void (this.reading = true),
      shutdown: () => void (this.shut = true),
      end: () => {
        this.shut = this.ended = true;
        this.events.closed();
      },
      reset: () => {
        this.wasReset = this.shut = this.ended = true;
        this.events.closed();
      },
      handOver: () => {},
      closed: () => {},
      release: () => {},
    };
    this.event(() => this.events.connected(transport));
  }

  failed(): void {
    this.event(() => this.events.failed("unreachable", "connection refused"));
  }

  say(bytes: string): void {
    this.event(() => this.events.data(Buffer.from(bytes, "latin1")));
  }

  drain(): void {
    this.room = Number.POSITIVE_INFINITY;
    this.event(() => this.events.drain());
  }

  end(): void {
    this.event(() => this.events.end());
  }

  closed(isReset = false): void {
    this.event(() => this.events.closed(isReset));
  }

  read(): Buffer {
    const output = this.#output;
    this.#output = Buffer.alloc(0);
    return output;
  }

  /** The handshake, and the bytes after it without the PROXY header, which names the client. */
  greet({ secret = SECRET, epoch = this.owner.epoch }: { secret?: Buffer; epoch?: number } = {}): {
    proof: string;
    address: string | null;
    isEncrypted: boolean;
    bytes: string;
  } {
    if (!this.#isConnected) this.connected();
    const [, gatewayNonce = ""] = /^relay 1 (\S{22})\n$/.exec(this.read().toString()) ?? [];
    const said = { epoch, gatewayNonce, ownerNonce: newNonce() };
    this.say(`owner ${epoch} ${said.ownerNonce} ${proofOf("owner", secret, said)}\n`);
    const output = this.read();
    const lf = output.indexOf(10);
    const expected = `proof ${proofOf("gateway", SECRET, said)}`;
    const header = lf < 0 ? null : parseProxyHeader(output.subarray(lf + 1));
    return {
      proof: lf >= 0 && output.toString("latin1", 0, lf) === expected ? "right" : output.toString("latin1"),
      address: header?.address ?? null,
      isEncrypted: header?.isEncrypted ?? false,
      bytes: header === null ? "" : output.toString("latin1", lf + 1 + header.bytes),
    };
  }

  get #isConnected(): boolean {
    return this.#output.length > 0;
  }
}

let world: World;
let relays: Relays;
let ends: OwnerEnd[];
let logged: string[];

beforeEach(() => {
  world = new World([]);
  ends = [];
  logged = [];
  const log = pino({ base: null }, { write: (line) => void logged.push(JSON.parse(line).reason) });
  const dial = (owner: Owner, events: DialEvents): void => void ends.push(new OwnerEnd(owner, events, world));
  relays = new Relays({ wheel: world.chat.wheel, secret: SECRET, dial, log });
  world.chat.loginRelay = relays;
});

function setOwner(owner: Owner | null, epoch?: number): void {
  world.begin();
  relays.setOwner(owner, epoch);
  world.endTurns();
}

/** A client whose login the owner has accepted. */
function relayed(): [client: Wire, end: OwnerEnd] {
  setOwner(OWNER);
  const client = new Wire({}, world);
  client.say(LOGIN);
  const end = ends.at(-1)!;
  end.greet();
  end.say(`${OK}\n`);
  expect(client.read()).toEqual([OK]);
  return [client, end];
}

describe("a client of a gateway", () => {
  test("without a session gets the replies that every server gives, and no owner is asked", () => {
    setOwner(OWNER);
    const client = new Wire({}, world);
    expect(client.say("online", "login #1 secret", "login alice", "resume x 1", "", "nothing")).toEqual([
      "err not_logged_in",
      "err bad_request login <user> <password> [option...]",
      "err bad_request login <user> <password> [option...]",
      "err bad_request resume <token> <received>",
      "err bad_request the line is empty",
      "err unknown_command",
    ]);
    expect(ends).toHaveLength(0);
  });

  test("logs in at the owner: its line follows the proof and a header with its address, and nothing else", () => {
    setOwner(OWNER);
    const client = new Wire({}, world, undefined, true, "2001:db8::7");
    client.feed(`${LOGIN}\r\nmessage bob hi\n`);
    expect(ends[0]!.greet()).toEqual({
      proof: "right",
      address: "2001:db8::7",
      isEncrypted: true,
      bytes: `${LOGIN}\n`,
    });
    expect(client.reading).toBe(false);
    expect(relays.open).toBe(0);
  });

  test("gets the reply after ok, and what it has sent meanwhile goes on; from then on nothing is parsed", () => {
    setOwner(OWNER);
    const client = new Wire({}, world);
    client.feed(`${LOGIN}\nmessage bob hi\nlogin al`);
    const [end] = ends as [OwnerEnd];
    end.greet();
    end.say("o");
    end.say("k tok");
    end.say("en 35\nmess");
    expect(client.read()).toEqual(["ok token 35"]);
    expect(client.reading).toBe(true);
    expect(end.read().toString()).toBe("message bob hi\nlogin al");
    client.feed("ice\n\xff\0nonsense");
    expect(end.read().toString("latin1")).toBe("ice\n\xff\0nonsense");
    end.say("age x\nerr y\n");
    expect(client.read()).toEqual(["message x", "err y"]);
    expect(relays.open).toBe(1);
    expect(relays.bytesDown).toBe("ok token 35\nmessage x\nerr y\n".length);
    expect(relays.bytesUp).toBe("message bob hi\nlogin alice\n\xff\0nonsense".length);
  });

  test("is without a session again after err, and its next login is on another connection", () => {
    setOwner(OWNER);
    const client = new Wire({}, world);
    client.feed("login alice wrong\nonline\nlogin alice secret\n");
    ends[0]!.greet();
    ends[0]!.say("err wrong_password 2\n");
    expect(ends[0]!.ended).toBe(true);
    expect(client.read()).toEqual(["err wrong_password 2", "err not_logged_in"]);
    expect(ends[1]!.greet().bytes).toBe("login alice secret\n");
    ends[1]!.say(`${OK}\n`);
    expect(client.read()).toEqual([OK]);
  });

  test("is closed after locked_out", () => {
    setOwner(OWNER);
    const client = new Wire({}, world);
    client.say(LOGIN);
    ends[0]!.greet();
    ends[0]!.say("err locked_out 60\n");
    expect(client.read()).toEqual(["err locked_out 60"]);
    expect(client.shut).toBe(true);
  });

  test("gets any reply to as, and the close of the owner", () => {
    setOwner(OWNER);
    for (const reply of ["ok sent", "err blocked", "err unknown_session replaced"]) {
      const client = new Wire({}, world);
      client.say(`as ${"t".repeat(22)} message bob hi`);
      const end = ends.at(-1)!;
      expect(end.greet().bytes).toBe(`as ${"t".repeat(22)} message bob hi\n`);
      end.say(`${reply}\n`);
      end.end();
      expect(client.read()).toEqual([reply]);
      expect(client.shut).toBe(true);
    }
  });

  test("receives earlier replies first, also when its socket was full", () => {
    setOwner(OWNER);
    const client = new Wire({}, world);
    client.room = 4;
    client.feed(`nothing\n${LOGIN}\n`);
    ends[0]!.greet();
    ends[0]!.say(`${OK}\nmessage bob hi\n`);
    expect(client.read()).toEqual([]);
    expect(ends[0]!.reading).toBe(false);
    client.room = Number.POSITIVE_INFINITY;
    client.event(() => client.receiver.drain());
    expect(client.read()).toEqual(["err unknown_command", OK, "message bob hi"]);
    expect(ends[0]!.reading).toBe(true);
  });

  test("is closed when the owner closes without a reply", () => {
    for (const close of [(end: OwnerEnd) => end.end(), (end: OwnerEnd) => end.closed(true)]) {
      setOwner(OWNER);
      const client = new Wire({}, world);
      client.say(LOGIN);
      ends.at(-1)!.greet();
      close(ends.at(-1)!);
      expect(client.read()).toEqual([]);
      expect(client.shut).toBe(true);
    }
    expect(relays.all.size).toBe(0);
  });

  test("that hangs up while it waits leaves nothing", () => {
    setOwner(OWNER);
    const clients = [new Wire({}, world), new Wire({}, world), new Wire({}, world)];
    for (const client of clients) client.say(LOGIN);
    ends[1]!.connected();
    ends[2]!.greet();
    for (const client of clients) client.event(() => client.receiver.closed());
    ends[0]!.failed();
    ends[1]!.greet();
    ends[2]!.say(`${OK}\n`);
    world.pass(RELAY_RETRY_MS + 100);
    expect(relays.all.size).toBe(0);
    expect(relays.open).toBe(0);
    expect(ends.slice(1).every(({ ended }) => ended)).toBe(true);
    expect(ends).toHaveLength(3);
  });
});

describe("a login without an owner", () => {
  test("gets busy after RELAY_WAIT_MS, and the connection goes on", () => {
    const client = new Wire({}, world);
    client.feed(`${LOGIN}\nonline\n`);
    world.pass(RELAY_WAIT_MS - 100);
    expect(client.read()).toEqual([]);
    world.pass(200);
    expect(client.read()).toEqual([
      "err busy no server can take this request at the moment; try again",
      "err not_logged_in",
    ]);
    expect(relays.refusals.get("no_owner")).toBe(1);
    setOwner(OWNER);
    client.say(LOGIN);
    ends[0]!.greet();
    ends[0]!.say(`${OK}\n`);
    expect(client.read()).toEqual([OK]);
  });

  test("goes to the owner as soon as there is one", () => {
    const client = new Wire({}, world);
    client.say(LOGIN);
    world.pass(RELAY_WAIT_MS - 1000);
    expect(ends).toHaveLength(0);
    setOwner(OWNER);
    expect(ends[0]!.greet().bytes).toBe(`${LOGIN}\n`);
  });

  test("tries again while the owner refuses connections, and leaves it for the next owner", () => {
    setOwner(OWNER);
    const client = new Wire({}, world);
    client.say(LOGIN);
    ends[0]!.failed();
    expect(ends).toHaveLength(1);
    world.pass(RELAY_RETRY_MS + 100);
    expect(ends).toHaveLength(2);
    ends[1]!.connected(); // It does not answer.
    setOwner(null, OWNER.epoch);
    expect(ends[1]!.wasReset).toBe(true);
    setOwner(NEXT);
    expect(ends[2]!.owner).toEqual(NEXT);
    ends[2]!.greet();
    ends[2]!.say(`${OK}\n`);
    expect(client.read()).toEqual([OK]);
    expect(logged).toEqual(["unreachable"]);
  });

  test("leaves no connection to an owner that is not the owner any more when it is established", () => {
    setOwner(OWNER);
    new Wire({}, world).say(LOGIN);
    setOwner(NEXT);
    ends[0]!.connected();
    expect(ends[0]!.ended).toBe(true);
    expect(ends[0]!.read()).toHaveLength(0);
    expect(ends[1]!.greet().bytes).toBe(`${LOGIN}\n`);
  });

  test("waits for a connection while too many attempts are in progress", () => {
    setOwner(OWNER);
    const clients = Array.from({ length: RELAY_DIALS_MAX + 1 }, () => new Wire({}, world));
    for (const client of clients) client.say(LOGIN);
    expect(ends).toHaveLength(RELAY_DIALS_MAX);
    ends[0]!.connected();
    world.pass(RELAY_RETRY_MS + 100);
    expect(ends).toHaveLength(RELAY_DIALS_MAX + 1);
  });
});

describe("a server that is not the owner of this cluster gets no line of a client:", () => {
  const cases: [why: string, reason: string, act: (end: OwnerEnd) => unknown][] = [
    ["it refuses connections", "unreachable", (end) => end.failed()],
    ["it has another secret", "secret", (end) => end.greet({ secret: Buffer.from("another") })],
    ["it has an earlier epoch", "handshake", (end) => end.greet({ epoch: OWNER.epoch - 1 })],
    ["it sends garbage", "handshake", (end) => (end.connected(), end.say("HTTP/1.1 400 Bad Request\r\n"))],
    ["it sends a line without end", "handshake", (end) => (end.connected(), end.say("x".repeat(10_000)))],
    ["it refuses", "handshake", (end) => (end.connected(), end.say("refused version 2 of the cluster port\n"))],
    ["it closes", "handshake", (end) => (end.connected(), end.end())],
    ["it resets", "handshake", (end) => (end.connected(), end.closed(true))],
    ["it repeats the nonce", "secret", (end) => (end.connected(), end.say(`owner 5 ${newNonce()} ${newNonce()}\n`))],
  ];

  test.each(cases)("%s", (_why, reason, act) => {
    setOwner(OWNER);
    const client = new Wire({}, world);
    client.say(LOGIN);
    for (let waitedMs = 0; waitedMs < RELAY_WAIT_MS + 100; waitedMs += 100) {
      const end = ends.at(-1)!;
      if (!tried.has(end)) act(end);
      tried.add(end);
      expect(end.read().toString()).not.toContain("secret");
      world.pass(100);
    }
    expect(client.read()).toEqual(["err busy no server can take this request at the moment; try again"]);
    expect([...relays.refusals].filter(([, count]) => count > 0)).toEqual([[reason as never, 1]]);
    expect(logged).toEqual([reason]);
    expect(ends.length).toBeGreaterThan(10);
  });
  const tried = new Set<OwnerEnd>();

  test("it says nothing", () => {
    setOwner(OWNER);
    const client = new Wire({}, world);
    client.say(LOGIN);
    ends[0]!.connected();
    world.pass(RELAY_WAIT_MS + 100);
    expect(client.read()).toHaveLength(1);
    expect(ends).toHaveLength(1);
    expect(ends[0]!.wasReset).toBe(true);
  });
});

describe("when a higher epoch is published", () => {
  test("relays to the earlier owner are cut, and those that have no reply yet", () => {
    const [client, end] = relayed();
    const asking = new Wire({}, world);
    asking.say(LOGIN);
    ends[1]!.greet();
    setOwner(NEXT);
    for (const each of [client, asking]) expect(each.hungUp).toBe(true);
    for (const each of [end, ends[1]!]) expect(each.wasReset).toBe(true);
    expect(relays.all.size).toBe(0);
    expect(relays.open).toBe(0);
  });

  test("relays stay while the owner only releases the shard, and are cut with the next epoch", () => {
    const [client, end] = relayed();
    setOwner(null, OWNER.epoch);
    end.say("goodbye shutdown\n");
    expect(client.read()).toEqual(["goodbye shutdown"]);
    expect(client.hungUp).toBe(false);
    setOwner(null, NEXT.epoch);
    expect(client.hungUp).toBe(true);
  });

  test("a relay to an owner that the shared log does not show yet stays", () => {
    setOwner(OWNER);
    const client = new Wire({}, world);
    client.say(LOGIN);
    ends[0]!.greet({ epoch: NEXT.epoch });
    ends[0]!.say(`${OK}\n`);
    setOwner({ ...OWNER, epoch: NEXT.epoch });
    expect(client.read()).toEqual([OK]);
    expect(client.hungUp).toBe(false);
  });
});

describe("a side that takes nothing", () => {
  test("stops the reading of the other one, until it has taken what waits", () => {
    const [client, end] = relayed();
    client.room = 3;
    end.say("message bob one\n");
    expect(end.reading).toBe(false);
    expect(client.connection.heldBytes).toBe("message bob one\n".length - 3);
    client.room = 5;
    end.say("message bob two\n"); // It was on its way.
    client.event(() => client.receiver.drain());
    expect(end.reading).toBe(false);
    client.room = Number.POSITIVE_INFINITY;
    client.event(() => client.receiver.drain());
    expect(client.read()).toEqual(["message bob one", "message bob two"]);
    expect(end.reading).toBe(true);
    end.room = 0;
    client.feed("message bob three\n");
    expect(client.reading).toBe(false);
    end.drain();
    expect(end.read().toString()).toBe("message bob three\n");
    expect(client.reading).toBe(true);
    expect(client.connection.heldBytes).toBe(0);
  });

  test("is not waited for without end when the other one is closed", () => {
    const [client, end] = relayed();
    client.room = 0;
    end.say("goodbye shutdown\n");
    end.end();
    end.closed();
    expect(client.hungUp).toBe(false);
    world.pass(LINGER_MS + 100);
    expect(client.hungUp).toBe(true);
    expect(relays.all.size).toBe(0);
  });
});

describe("the end of a side", () => {
  test("is passed on after everything before: the client's FIN", () => {
    const [client, end] = relayed();
    end.room = 0;
    client.feed("message bob hi\n");
    client.event(() => client.receiver.end());
    expect(end.shut).toBe(false);
    end.drain();
    expect(end.read().toString()).toBe("message bob hi\n");
    expect(end.shut).toBe(true);
    expect(end.ended).toBe(false);
    end.say("ok sent\n");
    expect(client.read()).toEqual(["ok sent"]);
    end.end();
    expect(client.hungUp).toBe(true);
  });

  test("is passed on after everything before: the owner's FIN", () => {
    const [client, end] = relayed();
    client.room = 4;
    end.say("goodbye replaced\n");
    end.end();
    expect(client.shut).toBe(false);
    client.room = Number.POSITIVE_INFINITY;
    client.event(() => client.receiver.drain());
    expect(client.read()).toEqual(["goodbye replaced"]);
    expect(client.shut).toBe(true);
    expect(client.hungUp).toBe(false);
    client.event(() => client.receiver.end());
    expect(end.ended).toBe(true);
    client.event(() => client.receiver.closed());
    expect(relays.all.size).toBe(0);
    expect(world.connections.open.size).toBe(0);
  });

  test("is passed on when it has come before the owner's reply", () => {
    setOwner(OWNER);
    const client = new Wire({}, world);
    client.feed(`${LOGIN}\nonline\n`);
    ends[0]!.greet();
    client.event(() => client.receiver.end());
    ends[0]!.say(`${OK}\n`);
    expect(ends[0]!.read().toString()).toBe("online\n");
    expect(ends[0]!.shut).toBe(true);
    expect(client.shut).toBe(false);
  });

  test("is a reset for the owner when the client resets, and for the client when the owner does", () => {
    const [client, end] = relayed();
    client.event(() => client.receiver.closed(true));
    expect(end.wasReset).toBe(true);
    const [other, otherEnd] = relayed();
    otherEnd.closed(true);
    expect(other.wasReset).toBe(true);
    other.event(() => other.receiver.closed());
    expect(relays.all.size).toBe(0);
    expect(relays.open).toBe(0);
    expect(world.connections.open.size).toBe(0);
  });

  test("is a FIN when a side closes without a reset, and what waits is written first", () => {
    const [client, end] = relayed();
    end.room = 0;
    client.feed("logout\n");
    client.event(() => client.receiver.closed());
    expect(end.ended).toBe(false);
    end.drain();
    expect(end.read().toString()).toBe("logout\n");
    expect(end.ended).toBe(true);
    expect(relays.all.size).toBe(0);
  });
});

test("closing the largest input of all connections counts what relays hold", () => {
  const [client, end] = relayed();
  client.room = 0;
  end.say("x".repeat(1000));
  expect(client.connection.heldBytes).toBe(1000);
  client.connection.hangUp();
  client.event(() => client.receiver.closed());
  expect(end.ended).toBe(true);
});

test("lines that wait when the gateway becomes the owner are given back, and all others are cut", () => {
  const [client] = relayed();
  setOwner(null, OWNER.epoch);
  const waiting = new Wire({}, world);
  waiting.say(LOGIN);
  const lines = relays.stop();
  expect([...lines].map(([connection, line]) => [connection, line.toString()])).toEqual([[waiting.connection, LOGIN]]);
  expect(client.hungUp).toBe(true);
  expect(waiting.hungUp).toBe(false);
  expect(relays.all.size).toBe(0);
});

test("whatever each side accepts at a time, all bytes arrive in order, and little is held", () => {
  const seed = seedFor("relayed bytes");
  const random = new Random(seed);
  const [client, end] = relayed();
  let [up, down, gotUp, gotDown] = ["", "", "", ""];
  const bytes = (): string => Array.from({ length: random.below(400) }, () => random.pick(["a", "b", "\n"])).join("");
  for (let i = 0; i < 2000; i++) {
    const chunk = bytes();
    if (random.oneIn(2)) {
      if (client.reading) [up] = [up + chunk, client.feed(chunk)];
      end.room = random.below(300);
      client.room = random.below(300);
    } else if (end.reading) [down] = [down + chunk, end.say(chunk)];
    if (random.oneIn(3)) end.event(() => end.events.drain());
    if (random.oneIn(3)) client.event(() => client.receiver.drain());
    gotUp += end.read().toString();
    gotDown += client.take();
    expect(client.connection.heldBytes).toBeLessThanOrEqual(2 * 400);
  }
  end.drain();
  client.room = Number.POSITIVE_INFINITY;
  client.event(() => client.receiver.drain());
  expect(gotUp + end.read().toString()).toBe(up);
  expect(gotDown + client.take()).toBe(down);
});
