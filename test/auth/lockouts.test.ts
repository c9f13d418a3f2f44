import { describe, expect, spyOn, test } from "bun:test";
import type { Account } from "../../src/chat/session.ts";
import { LOCKOUTS_MAX } from "../../src/limits.ts";
import { BLOCK_MS, PASSWORD, type TestPeer, World } from "../support/chat.ts";

const HERE = "192.0.2.1";
const ELSEWHERE = "192.0.2.2";

/** Three wrong passwords for alice. */
function lockOut(world: World, address = HERE): void {
  world.say(world.connect(address), "login alice a", "login alice b", "login alice c");
}

/** The reply to a login on a new connection. */
function answer(world: World, user: string, password: string, address = HERE): string | undefined {
  const peer = world.connect(address);
  return world.ask(peer, `login ${user} ${password}`)[0];
}

test("logins of an unknown user never lock out, and a known user on that connection can still log in", () => {
  const world = new World(["alice"], { limits: { failedLoginsPerMinuteMax: 0 } });
  const peer = world.connect();
  for (let i = 0; i < 1000; i++) expect(world.ask(peer, `login nobody${i} x`)).toEqual(["err unknown_user"]);
  for (let i = 0; i < 1000; i++) expect(world.ask(peer, "login nobody x")).toEqual(["err unknown_user"]);
  expect(world.ask(peer, `login alice ${PASSWORD}`)[0]).toMatch(/^ok /);
});

test("two wrong passwords are counted down; the third locks the user out and closes the connection", () => {
  const world = new World(["alice"]);
  const peer = world.connect();
  expect(world.ask(peer, "login alice a")).toEqual(["err wrong_password 2"]);
  expect(world.ask(peer, "login alice b")).toEqual(["err wrong_password 1"]);
  expect(peer.isClosed).toBe(false);
  expect(world.ask(peer, "login alice c")).toEqual(["err locked_out 60"]);
  expect(peer.isClosed).toBe(true);
});

test("lines after the third wrong password get no reply", () => {
  const world = new World(["alice", "bob"]);
  const peer = world.connect();
  world.say(peer, "login alice a", "login alice b", "login alice c", `login bob ${PASSWORD}`, "online");
  expect(peer.read()).toEqual(["err wrong_password 2", "err wrong_password 1", "err locked_out 60"]);
});

test("wrong passwords count over all connections of an address", () => {
  const world = new World(["alice"]);
  expect(answer(world, "alice", "a")).toBe("err wrong_password 2");
  expect(answer(world, "alice", "b")).toBe("err wrong_password 1");
  expect(answer(world, "alice", "c")).toBe("err locked_out 60");
});

test("during a lockout, right and wrong passwords alike get the seconds left, and the connection closes", () => {
  const world = new World(["alice"]);
  lockOut(world);
  world.pass(20_500);
  for (const password of [PASSWORD, "wrong"]) {
    const peer = world.connect();
    expect(world.ask(peer, `login alice ${password}`)).toEqual(["err locked_out 40"]);
    expect(peer.isClosed).toBe(true);
  }
  expect(world.account("alice").session).toBeNull();
});

test("during a lockout no password is verified", () => {
  const world = new World(["alice"]);
  lockOut(world);
  world.verify = () => {
    throw new Error("judged");
  };
  expect(answer(world, "alice", PASSWORD)).toBe("err locked_out 60");
});

test("other users and other addresses are not locked out", () => {
  const world = new World(["alice", "bob"]);
  lockOut(world);
  expect(answer(world, "bob", PASSWORD)).toMatch(/^ok /);
  expect(answer(world, "alice", "wrong", ELSEWHERE)).toBe("err wrong_password 2");
  expect(answer(world, "alice", PASSWORD, ELSEWHERE)).toMatch(/^ok /);
});

test("a lockout does not affect an existing session of the user", () => {
  const world = new World(["alice"]);
  const alice = world.login("alice");
  alice.read();
  lockOut(world);
  expect(world.ask(alice, "alive")).toEqual(["ok"]);
});

test("addresses of one IPv6 /64 share a lockout, and other addresses do not", () => {
  const world = new World(["alice"]);
  expect(answer(world, "alice", "a", "2001:db8:1:2::1")).toBe("err wrong_password 2");
  expect(answer(world, "alice", "b", "2001:db8:1:2:ffff::")).toBe("err wrong_password 1");
  expect(answer(world, "alice", "c", "2001:db8:1:2:3:4:5:6")).toBe("err locked_out 60");
  expect(answer(world, "alice", PASSWORD, "2001:db8:1:2::77")).toBe("err locked_out 60");
  expect(answer(world, "alice", "a", "2001:db8:1:3::1")).toBe("err wrong_password 2");
});

test("a lockout lasts its whole time, and ends at most two ticks later", () => {
  const world = new World(["alice"], { clockMs: 1010 });
  lockOut(world);
  world.pass(BLOCK_MS - 1);
  expect(answer(world, "alice", PASSWORD)).toBe("err locked_out 1");
  world.pass(1 + 2 * 64);
  expect(answer(world, "alice", PASSWORD)).toMatch(/^ok /);
});

test("there are three tries again after a lockout", () => {
  const world = new World(["alice"]);
  lockOut(world);
  world.pass(BLOCK_MS + 128);
  const peer = world.connect();
  world.say(peer, "login alice a", "login alice b", "login alice c");
  expect(peer.read()).toEqual(["err wrong_password 2", "err wrong_password 1", "err locked_out 60"]);
});

test("logins during a lockout do not extend it", () => {
  const world = new World(["alice"]);
  lockOut(world);
  for (let i = 0; i < 6; i++) {
    world.pass(10_000 - 64);
    expect(answer(world, "alice", "wrong")).toMatch(/^err locked_out /);
  }
  world.pass(6 * 64 + 128);
  expect(answer(world, "alice", PASSWORD)).toMatch(/^ok /);
});

test("a right password resets the count", () => {
  const world = new World(["alice"]);
  answer(world, "alice", "a");
  answer(world, "alice", "b");
  expect(answer(world, "alice", PASSWORD)).toMatch(/^ok /);
  expect(answer(world, "alice", "a")).toBe("err wrong_password 2");
});

test("a right password from another address does not reset the count", () => {
  const world = new World(["alice"]);
  answer(world, "alice", "a");
  answer(world, "alice", "b");
  answer(world, "alice", PASSWORD, ELSEWHERE);
  expect(answer(world, "alice", "c")).toBe("err locked_out 60");
});

test("the block time without a wrong password resets the count; a shorter time does not", () => {
  const world = new World(["alice"]);
  answer(world, "alice", "a");
  world.pass(BLOCK_MS - 1000);
  expect(answer(world, "alice", "b")).toBe("err wrong_password 1");
  world.pass(BLOCK_MS + 128);
  expect(answer(world, "alice", "c")).toBe("err wrong_password 2");
});

test("three wrong passwords lock out when each comes within the block time of the one before", () => {
  const world = new World(["alice"]);
  answer(world, "alice", "a");
  world.pass(BLOCK_MS - 1000);
  answer(world, "alice", "b");
  world.pass(BLOCK_MS - 1000);
  expect(answer(world, "alice", "c")).toBe("err locked_out 60");
});

test("no record of an address is kept after its time", () => {
  const world = new World(["alice"]);
  for (let i = 0; i < 100; i++) lockOut(world, `192.0.2.${i}`);
  expect(world.chat.wheel.armed).toBe(100);
  world.pass(BLOCK_MS + 128);
  expect(world.chat.wheel.armed).toBe(0);
});

describe("a login that is judged later", () => {
  /** Verifications wait in `asked` for their verdicts. */
  interface Asked {
    account: Account;
    password: string;
    judge: (right: boolean) => Promise<void>;
    fail: () => Promise<void>;
  }

  function slowly(world: World): Asked[] {
    const asked: Asked[] = [];
    world.verify = (account, password) => {
      const { promise, resolve, reject } = Promise.withResolvers<boolean>();
      asked.push({
        account,
        password: Buffer.from(password).toString(),
        judge: (right) => (resolve(right), world.later()),
        fail: () => (reject(new Error("no memory")), world.later()),
      });
      return promise;
    };
    return asked;
  }

  test("lines after a login wait for its verdict, and replies keep their order", async () => {
    const world = new World(["alice"]);
    const asked = slowly(world);
    const peer = world.connect();
    world.say(peer, "alive", "login alice one", "alive", "login alice two", "alive", "broadcast hi");
    expect(peer.read()).toEqual(["err not_logged_in"]);
    await asked[0]!.judge(false);
    expect(peer.read()).toEqual(["err wrong_password 2", "err not_logged_in"]);
    expect(asked.map(({ password }) => password)).toEqual(["one", "two"]);
    await asked[1]!.judge(true);
    expect(peer.read()).toEqual([expect.stringMatching(/^ok token\d+ 35$/), "ok", "ok 0"]);
  });

  test("a login that waits for its verdict delays no other connection", () => {
    const world = new World(["alice", "bob"]);
    const [bob] = world.online("bob") as [TestPeer];
    slowly(world);
    world.say(world.connect(), "login alice one");
    expect(world.ask(bob, "broadcast hi")).toEqual(["ok 0"]);
  });

  test("parallel attempts of one user from one address run one after another, and get three tries", async () => {
    const world = new World(["alice"]);
    const asked = slowly(world);
    const peers = Array.from({ length: 6 }, () => world.connect());
    for (const [i, peer] of peers.entries()) world.say(peer, `login alice guess${i}`);
    for (let i = 0; i < 3; i++) {
      expect(asked.length).toBe(i + 1);
      await asked[i]!.judge(false);
    }
    expect(asked.length).toBe(3);
    expect(peers.map((peer) => peer.read())).toEqual([
      ["err wrong_password 2"],
      ["err wrong_password 1"],
      ["err locked_out 60"],
      ["err locked_out 60"],
      ["err locked_out 60"],
      ["err locked_out 60"],
    ]);
    expect(peers.map(({ isClosed: gone }) => gone)).toEqual([false, false, true, true, true, true]);
  });

  test("an attempt does not wait for those of other users or addresses", () => {
    const world = new World(["alice", "bob"]);
    const asked = slowly(world);
    world.say(world.connect(HERE), "login alice a");
    world.say(world.connect(ELSEWHERE), "login alice b");
    world.say(world.connect(HERE), "login bob c");
    expect(asked.map(({ account, password }) => `${account.name} ${password}`)).toEqual([
      "alice a",
      "alice b",
      "bob c",
    ]);
  });

  test("the first right password of parallel attempts gives a session, and the next replaces it", async () => {
    const world = new World(["alice"]);
    const asked = slowly(world);
    const [first, second] = [world.connect(), world.connect()];
    world.say(first, "login alice a");
    world.say(second, "login alice b");
    await asked[0]!.judge(true);
    await asked[1]!.judge(true);
    expect(first.read()).toEqual([expect.stringMatching(/^ok /), "goodbye replaced"]);
    expect(second.read()).toEqual([expect.stringMatching(/^ok /)]);
  });

  test("a peer that hung up before the verdict gets no session, and no event is sent", async () => {
    const world = new World(["alice", "bob"]);
    const [bob] = world.online("bob") as [TestPeer];
    const asked = slowly(world);
    const [first, second] = [world.connect(), world.connect()];
    world.say(first, "login alice a");
    world.say(second, "login alice b");
    first.hangUp();
    await asked[0]!.judge(true);
    world.announce();
    expect(world.account("alice").session).toBeNull();
    expect(bob.read()).toEqual([]);
    await asked[1]!.judge(true);
    world.announce();
    expect(second.read()).toEqual([expect.stringMatching(/^ok /)]);
    expect(bob.read()).toEqual(["joined alice"]);
  });

  test("a wrong password counts also when the peer has hung up", async () => {
    const world = new World(["alice"]);
    const asked = slowly(world);
    for (let i = 0; i < 3; i++) {
      const peer = world.connect();
      world.say(peer, "login alice guess");
      peer.hangUp();
      await asked[i]!.judge(false);
    }
    expect(answer(world, "alice", PASSWORD)).toBe("err locked_out 60");
  });

  test("a fault in the verification is answered with internal, counts as no try, and ends the connection", async () => {
    const world = new World(["alice"]);
    const asked = slowly(world);
    const peer = world.connect();
    world.say(peer, "login alice a", "login alice b");
    await asked[0]!.fail();
    expect(peer.read()).toEqual(["err internal"]);
    expect(peer.isClosed).toBe(true);
    expect(world.faults).toHaveLength(1);
    const other = world.connect();
    world.say(other, "login alice b");
    await asked[1]!.judge(false);
    expect(other.read()).toEqual(["err wrong_password 2"]);
  });

  test("a login is busy when sixteen others of that user and address wait", async () => {
    const world = new World(["alice"]);
    const asked = slowly(world);
    const peers = Array.from({ length: 18 }, () => world.connect());
    for (const peer of peers) world.say(peer, "login alice a");
    expect(peers.map((peer) => peer.read())).toEqual([...Array(17).fill([]), ["err busy"]]);
    await asked[0]!.judge(true);
    expect(peers[0]!.read()).toEqual([expect.stringMatching(/^ok /)]);
    world.say(peers[17]!, "login alice a");
    expect(peers[17]!.read()).toEqual([]);
  });

  test("a try counts from its verdict, and the lockout from the third verdict", async () => {
    const world = new World(["alice"]);
    const asked = slowly(world);
    const peer = world.connect();
    world.say(peer, "login alice a", "login alice b", "login alice c");
    for (let i = 0; i < 3; i++) {
      world.pass(20_000);
      await asked[i]!.judge(false);
    }
    expect(peer.read()).toEqual(["err wrong_password 2", "err wrong_password 1", "err locked_out 60"]);
  });
});

test.each([0.1, 0.3, 0.7, 7000.123456, 123_456.789])(
  "60 seconds are told as 60, whatever the clock shows (%p)",
  (ms) => {
    const world = new World(["alice"], { clockMs: 1000 + ms });
    world.pass(ms);
    const stranger = world.connect();
    for (let i = 0; i < 3; i++) world.say(stranger, "login alice wrong");
    expect(stranger.read().at(-1)).toBe("err locked_out 60");
  },
);

test("the block time is exact to the millisecond, not to the next tick", () => {
  const world = new World(["alice"], { clockMs: 1000 });
  const stranger = world.connect();
  for (let i = 0; i < 2; i++) world.say(stranger, "login alice wrong");
  world.pass(BLOCK_MS);
  expect(world.ask(stranger, "login alice wrong").at(-1)).toBe("err wrong_password 2");
});

describe("with the user as the scope", () => {
  test("with the scope user, wrong passwords count and lock out for all addresses", () => {
    const world = new World(["alice", "bob"], { lockoutScope: "user" });
    expect(answer(world, "alice", "a", "192.0.2.1")).toBe("err wrong_password 2");
    expect(answer(world, "alice", "b", "192.0.2.2")).toBe("err wrong_password 1");
    expect(answer(world, "alice", "c", "2001:db8::1")).toBe("err locked_out 60");
    expect(answer(world, "alice", PASSWORD, "192.0.2.9")).toBe("err locked_out 60");
    expect(answer(world, "bob", PASSWORD)).toMatch(/^ok /);
  });
});

describe("what an earlier run knew", () => {
  const restore = (world: World, count: number, leftMs: number, source = HERE): boolean =>
    world.chat.lockouts.restore({ user: "alice", source, count }, leftMs);

  test("counts and lockouts of an earlier run continue for the rest of their time", () => {
    const world = new World(["alice", "bob"]);
    restore(world, 3, 20_000);
    restore(world, 2, 20_000, ELSEWHERE);
    expect(answer(world, "alice", PASSWORD)).toBe("err locked_out 20");
    expect(answer(world, "alice", "a", ELSEWHERE)).toBe("err locked_out 60");
    expect(answer(world, "bob", PASSWORD)).toMatch(/^ok /);
    world.pass(20_100);
    expect(answer(world, "alice", PASSWORD)).toMatch(/^ok /);
  });

  test("after a step back of the wall clock no restored lockout exceeds the block time", () => {
    const world = new World(["alice"]);
    restore(world, 3, 10 * BLOCK_MS);
    expect(answer(world, "alice", PASSWORD)).toBe("err locked_out 60");
  });

  test("expired counts and counts of the other scope are not restored", () => {
    const world = new World(["alice"]);
    expect([restore(world, 3, 0), restore(world, 3, 20_000, ""), restore(world, 3, 20_000)]).toEqual([
      false,
      false,
      true,
    ]);
    expect(answer(world, "alice", PASSWORD, ELSEWHERE)).toMatch(/^ok /);
    const byUser = new World(["alice"], { lockoutScope: "user" });
    expect([restore(byUser, 3, 20_000), restore(byUser, 3, 20_000, "")]).toEqual([false, true]);
  });
});

test("the store receives each wrong password and each reset", () => {
  const world = new World(["alice"]);
  const changes = spyOn(world.store, "wrongPasswords");
  expect(answer(world, "alice", PASSWORD)).toMatch(/^ok /);
  expect(changes).not.toHaveBeenCalled();
  const known = (): [number, number][] =>
    world.store.lockouts().map(({ count, untilUnixMs }) => [count, untilUnixMs - world.chat.unixMs]);
  answer(world, "alice", "a");
  expect(known()).toEqual([[1, BLOCK_MS]]);
  world.pass(1000);
  answer(world, "alice", "b");
  expect(known()).toEqual([[2, BLOCK_MS]]);
  answer(world, "alice", PASSWORD);
  expect(known()).toEqual([]);
  lockOut(world, ELSEWHERE);
  expect(known()).toEqual([[3, BLOCK_MS]]);
  world.pass(BLOCK_MS + 200);
  expect(known()).toEqual([]);
});

test("the number of records is bounded: with too many, the next to expire is forgotten", async () => {
  const world = new World(["alice", "bob"], { limits: { failedLoginsPerMinuteMax: 0 } });
  const judge = (address: string): void => {
    world.chat.lockouts.enter("alice", address, (record) => {
      world.chat.lockouts.wrong(record);
      world.chat.lockouts.leave(record);
    });
  };
  // But not while an attempt is verified.
  const verdict = Promise.withResolvers<boolean>();
  const judged = world.connect();
  world.say(judged, "login bob a");
  const { verify } = world;
  world.verify = () => verdict.promise;
  world.say(judged, "login bob b");
  world.verify = verify;
  judge("198.51.100.1");
  lockOut(world, ELSEWHERE);
  world.pass(100);
  judge("198.51.100.1");
  for (let i = 0; i < LOCKOUTS_MAX - 3; i++) judge(`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`);
  expect(answer(world, "alice", PASSWORD, ELSEWHERE)).toBe("err locked_out 60");
  judge("192.0.2.77");
  expect(answer(world, "alice", PASSWORD, ELSEWHERE)).toMatch(/^ok /);
  verdict.resolve(false);
  await world.later();
  expect(judged.read()).toEqual(["err wrong_password 2", "err wrong_password 1"]);
});
