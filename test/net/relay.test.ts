import { beforeEach, describe, expect, test } from "bun:test";
import pino from "pino";
import { LINGER_MS, RELAY_DIALS_MAX, RELAY_RETRY_MS, RELAY_WAIT_MS } from "../../src/limits.ts";
import { newNonce } from "../../src/net/cluster-handshake.ts";
import type { DialEvents, Owner } from "../../src/net/owner-link.ts";
import { Directory } from "../../src/net/directory.ts";
import { RelayCounts } from "../../src/net/relay.ts";
import { Relays } from "../../src/net/relays.ts";
import { tokenPrefix } from "../../src/protocol/shard.ts";
import { World } from "../support/chat.ts";
import { OwnerEnd, SECRET } from "../support/owner-end.ts";
import { Random, seedFor } from "../support/random.ts";
import { Wire } from "../support/simulated-transport.ts";

const OWNER: Owner = { shard: 2, host: "10.0.0.1", port: 6010, epoch: 5 };
const NEXT: Owner = { shard: 2, host: "10.0.0.2", port: 6010, epoch: 9 };
const LOGIN = "login alice secret";
const OK = "ok token 35";
/** Of a session of shard 2, and of one from before the cluster. */
const TOKEN = tokenPrefix(2) + "t".repeat(22);
const OLD_TOKEN = "t".repeat(22);

let world: World;
let directory: Directory;
let counts: RelayCounts;
let relays: Relays;
let create: (home: number | null) => Relays;
let ends: OwnerEnd[];
let logged: string[];

beforeEach(() => {
  world = new World([]);
  ends = [];
  logged = [];
  const log = pino({ base: null }, { write: (line) => void logged.push(JSON.parse(line).reason) });
  const dial = (owner: Owner, events: DialEvents): void => void ends.push(new OwnerEnd(owner, events, world));
  directory = new Directory(3);
  counts = new RelayCounts();
  create = (home) => new Relays({ chat: world.chat, home, directory, secret: SECRET, dial, counts, log });
  world.chat.loginRelay = relays = create(null);
});

/** The server has the users of that shard. */
function own(shard: number): void {
  world.chat.loginRelay = relays = create(shard);
}

/** The shared log shows this owner of shard 2. */
function setOwner(owner: Owner | null, epoch = owner?.epoch ?? directory.epochOf(2)): void {
  world.begin();
  directory.set(2, owner, epoch);
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

  test("waits for the owner when the process of the gateway itself owns the shard and still reads its log", () => {
    directory.home = 2;
    setOwner(null, OWNER.epoch);
    const client = new Wire({}, world);
    expect(client.say(LOGIN)).toEqual([]);
    expect(new Wire({}, world).say(`resume ${TOKEN} 0`)).toEqual([]);
    setOwner(NEXT);
    const [end] = ends as [OwnerEnd];
    end.greet();
    end.say(`${OK}\n`);
    expect(client.read()).toEqual([OK]);
  });

  test("logs in at the owner: its line follows the proof and a header with its address, and nothing else", () => {
    setOwner(OWNER);
    const client = new Wire({}, world, undefined, true, "2001:db8::7");
    client.feed(`${LOGIN}\r\nmessage bob hi\n`);
    expect(ends[0]!.greet()).toEqual({
      proof: "right",
      address: "2001:db8::7",
      isEncrypted: true,
      waited: { ms: 0, uncertainMs: 0 },
      bytes: `${LOGIN}\n`,
    });
    expect(client.reading).toBe(false);
    expect(counts.open).toBe(0);
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
    expect(counts.open).toBe(1);
    expect(counts.bytesDown).toBe("ok token 35\nmessage x\nerr y\n".length);
    expect(counts.bytesUp).toBe("message bob hi\nlogin alice\n\xff\0nonsense".length);
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
      client.say(`as ${TOKEN} message bob hi`);
      const end = ends.at(-1)!;
      expect(end.greet().bytes).toBe(`as ${TOKEN} message bob hi\n`);
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
    expect(counts.open).toBe(0);
    expect(ends.slice(1).every(({ ended }) => ended)).toBe(true);
    expect(ends).toHaveLength(3);
  });
});

describe("of several shards", () => {
  /** Each shard has an owner. */
  function owned(): void {
    for (const shard of [0, 1, 2]) directory.set(shard, { ...OWNER, shard, host: `10.0.0.${shard}` }, OWNER.epoch);
  }

  test("a login goes to the owner of the user's shard, a token to that of its own", () => {
    owned();
    const lines: [line: string, shard: number][] = [
      ["login alice secret", 2],
      ["login dave secret", 1],
      ["login nobody secret", 1],
      [`resume ${TOKEN} 0`, 2],
      [`resume ${tokenPrefix(0)}${OLD_TOKEN} 0`, 0],
      [`as ${tokenPrefix(1)}${OLD_TOKEN} online`, 1],
    ];
    for (const [line, shard] of lines) {
      new Wire({}, world).say(line);
      expect(ends.at(-1)!.owner.shard).toBe(shard);
      expect(ends.at(-1)!.greet().bytes).toBe(`${line}\n`);
    }
  });

  test("after a refusal the next login may be of another one", () => {
    owned();
    const client = new Wire({}, world);
    client.feed(`${LOGIN}\nlogin dave secret\n`);
    ends[0]!.greet();
    ends[0]!.say("err wrong_password 2\n");
    expect(ends[1]!.owner.shard).toBe(1);
    ends[1]!.greet();
    ends[1]!.say(`${OK}\n`);
    expect(client.read()).toEqual(["err wrong_password 2", OK]);
  });

  test("a token of no shard is unknown at once", () => {
    owned();
    const client = new Wire({}, world);
    const token = tokenPrefix(3) + OLD_TOKEN;
    expect(client.say(`resume ${token} 0`, `resume ${TOKEN}x 0`)).toEqual([
      "err unknown_session",
      "err unknown_session",
    ]);
    expect(client.say(`as ${token} online`)).toEqual(["err unknown_session"]);
    expect(ends).toEqual([]);
  });

  test("all are asked for a token from before the cluster, until one knows it", () => {
    const cases: [reply: string, received: string][] = [
      ["ok 17\nmessage bob hi\n", "ok 17,message bob hi"],
      ["err unknown_session replaced\n", "err unknown_session replaced"],
    ];
    for (const [reply, received] of cases) {
      owned();
      const client = new Wire({}, world);
      client.say(`resume ${OLD_TOKEN} 0`);
      for (const shard of [0, 1]) {
        expect(ends.at(-1)!.owner.shard).toBe(shard);
        expect(ends.at(-1)!.greet().bytes).toBe(`resume ${OLD_TOKEN} 0\n`);
        ends.at(-1)!.say("err unknown_session\n");
        expect(client.read()).toEqual([]);
      }
      ends.at(-1)!.greet();
      ends.at(-1)!.say(reply);
      expect(client.read().join()).toBe(received);
    }
  });

  test("a token that none of them knows is unknown, and the connection goes on; after as it is closed", () => {
    owned();
    for (const line of [`resume ${OLD_TOKEN} 0`, `as ${OLD_TOKEN} online`]) {
      const client = new Wire({}, world);
      client.say(line);
      for (let i = 0; i < 3; i++) {
        ends.at(-1)!.greet();
        ends.at(-1)!.say("err unknown_session\n");
      }
      expect(client.read()).toEqual(["err unknown_session"]);
      expect(client.shut).toBe(line.startsWith("as"));
      expect(relays.all.size).toBe(0);
    }
  });

  test("a token from before the cluster is not unknown while one of them has no owner", () => {
    owned();
    directory.set(1, null, OWNER.epoch);
    const client = new Wire({}, world);
    client.say(`resume ${OLD_TOKEN} 0`);
    ends[0]!.greet();
    ends[0]!.say("err unknown_session\n");
    world.pass(RELAY_WAIT_MS + 100);
    expect(client.read()).toEqual(["err busy no server can take this request at the moment; try again"]);
  });

  test("the owner of one relays only what is for the others, and never what was relayed to it", () => {
    world.chat.accounts.add("alice", "secret");
    owned();
    own(2);
    const client = new Wire({}, world);
    expect(client.say("login alice x", "resume token00000000000000000001 0")).toEqual([
      "err wrong_password 2",
      "err unknown_session",
    ]);
    expect(ends).toEqual([]);
    client.say("login dave secret");
    expect(ends[0]!.owner.shard).toBe(1);
    const relayed = new Wire({}, world, undefined, false, undefined, true);
    expect(relayed.say("login dave secret", `resume ${OLD_TOKEN} 0`)).toEqual([
      "err unknown_user",
      "err unknown_session",
    ]);
    expect(ends).toHaveLength(1);
  });

  test("the owner of one asks the others for a token from before the cluster that it does not know", () => {
    world.chat.accounts.add("alice", "secret");
    own(2);
    const client = new Wire({}, world);
    const [, token] = client.say("login alice secret resumable")[0]!.split(" ");
    expect(token).toHaveLength(25);
    owned();
    const other = new Wire({}, world);
    other.say(`resume ${OLD_TOKEN} 0`);
    for (const shard of [0, 1]) {
      expect(ends.at(-1)!.owner.shard).toBe(shard);
      ends.at(-1)!.greet();
      ends.at(-1)!.say("err unknown_session\n");
    }
    expect(other.read()).toEqual(["err unknown_session"]);
    expect(ends).toHaveLength(2);
  });

  test("a callback session of a client on the machine of the gateway is refused elsewhere, and others are not", () => {
    world.chat.accounts.add("alice", "secret");
    own(2);
    const login = (address: string): string[] =>
      new Wire({}, world, undefined, false, address, true).say("login alice secret callback=5000");
    expect(login("127.0.0.1")).toEqual([
      "err bad_request callback to 127.0.0.1, which is on another machine than your shard",
    ]);
    expect(login("::1")[0]).toStartWith("err bad_request callback to ::1,");
    expect(login("192.0.2.1")[0]).toStartWith("ok ");
    const here = new Wire({}, world, undefined, false, "127.0.0.1");
    expect(here.say("login alice secret callback=5000")[0]).toStartWith("ok ");
  });

  test("relays of one end with its owner, and those of the others go on", () => {
    owned();
    const [client, end] = relayed();
    const dave = new Wire({}, world);
    dave.say("login dave secret");
    ends.at(-1)!.greet();
    ends.at(-1)!.say(`${OK}\n`);
    setOwner(NEXT);
    expect([client.hungUp, end.wasReset]).toEqual([true, true]);
    expect(dave.hungUp).toBe(false);
    expect(counts.open).toBe(1);
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
    expect(counts.refusals.get("no_owner")).toBe(1);
    setOwner(OWNER);
    client.say(LOGIN);
    ends[0]!.greet();
    ends[0]!.say(`${OK}\n`);
    expect(client.read()).toEqual([OK]);
  });

  test("goes to the owner as soon as there is one, which learns for how long it has waited", () => {
    const client = new Wire({}, world);
    client.say(LOGIN);
    world.pass(RELAY_WAIT_MS - 1000);
    expect(ends).toHaveLength(0);
    setOwner(OWNER);
    expect(ends[0]!.greet()).toMatchObject({
      bytes: `${LOGIN}\n`,
      waited: { ms: RELAY_WAIT_MS - 1000, uncertainMs: 0 },
    });
  });

  test("has waited for as long as the process stood still, before and after it was read", () => {
    const client = new Wire({}, world);
    world.clockMs += 3000;
    client.say(LOGIN);
    world.clockMs += 700;
    world.tick();
    setOwner(OWNER);
    const { ms, uncertainMs } = ends[0]!.greet().waited!;
    expect(ms).toBeWithin(3700, 3800);
    expect(uncertainMs).toBeWithin(3000, 3100);
  });

  test("has waited for the time before it was given up, too, when another server of the process relays it", () => {
    const client = new Wire({}, world);
    client.connection.waited = { ms: 2000, uncertainMs: 300 };
    client.say(LOGIN);
    world.pass(1000);
    setOwner(OWNER);
    expect(ends[0]!.greet().waited).toEqual({ ms: 3000, uncertainMs: 300 });
    ends[0]!.say("err wrong_password 2\n");
    client.say(LOGIN);
    expect(ends[1]!.greet().waited).toEqual({ ms: 0, uncertainMs: 0 });
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
    ["it owns another shard", "handshake", (end) => end.greet({ shard: 1 })],
    ["it has an earlier epoch", "handshake", (end) => end.greet({ epoch: OWNER.epoch - 1 })],
    ["it sends garbage", "handshake", (end) => (end.connected(), end.say("HTTP/1.1 400 Bad Request\r\n"))],
    ["it sends a line without end", "handshake", (end) => (end.connected(), end.say("x".repeat(10_000)))],
    ["it refuses", "handshake", (end) => (end.connected(), end.say("refused version 2 of the cluster port\n"))],
    ["it closes", "handshake", (end) => (end.connected(), end.end())],
    ["it resets", "handshake", (end) => (end.connected(), end.closed(true))],
    ["it does not prove anything", "secret", (end) => (end.connected(), end.say(`owner 2 5 ${newNonce()} x\n`))],
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
    expect([...counts.refusals].filter(([, count]) => count > 0)).toEqual([[reason as never, 1]]);
    expect(logged).toEqual([reason]);
    expect(ends.length).toBeGreaterThan(10);
  });
  const tried = new Set<OwnerEnd>();

  test("for reasons that take turns, which are logged once each, and again after a success", () => {
    const outage = (): void => {
      new Wire({}, world).say(LOGIN);
      for (let i = 0; i < 10; i++) {
        const end = ends.at(-1)!;
        if (i % 2 === 0) end.failed();
        else end.greet({ shard: 1 });
        while (ends.at(-1) === end) world.pass(100);
      }
    };
    setOwner(OWNER);
    outage();
    expect(logged).toEqual(["unreachable", "handshake"]);
    const end = ends.at(-1)!;
    end.greet();
    end.say(`${OK}\n`);
    outage();
    expect(logged).toEqual(["unreachable", "handshake", "unreachable", "handshake"]);
  });

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
    expect(counts.open).toBe(0);
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
    expect(counts.open).toBe(0);
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

test("lines that wait when the gateway becomes an owner are given back, and all others go on until the server stops", () => {
  const [client] = relayed();
  setOwner(null, OWNER.epoch);
  const waiting = new Wire({}, world);
  waiting.say(LOGIN);
  const lines = relays.giveUp();
  expect([...lines].map(([connection, line]) => [connection, line.toString()])).toEqual([[waiting.connection, LOGIN]]);
  expect([...relays.all].map(({ connection }) => connection)).toEqual([client.connection]);
  relays.stop();
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
