import { describe, expect, test } from "bun:test";
import { Addresses, source } from "../../src/auth/addresses.ts";
import { ADDRESSES_IDLE_MAX, ADDRESSES_IDLE_MS, LIMITS_DEFAULT, type Limits } from "../../src/limits.ts";
import { TimerWheel } from "../../src/timer-wheel.ts";
import { PASSWORD, World } from "../support/chat.ts";

const HERE = "192.0.2.1";
const ELSEWHERE = "192.0.2.2";

function setUp(changes: Partial<Limits> = {}): { addresses: Addresses; pass: (ms: number) => void; limits: Limits } {
  const wheel = new TimerWheel();
  const limits = { ...LIMITS_DEFAULT, ...changes };
  let clockMs = 0;
  // In steps: the wheel takes a jump for a stall of the process.
  const pass = (ms: number): void => {
    for (const untilMs = clockMs + ms; clockMs < untilMs;) wheel.advance((clockMs = Math.min(untilMs, clockMs + 50)));
  };
  return { addresses: new Addresses(wheel, limits), pass, limits };
}

describe("connections of one address", () => {
  test("the connections of an address are bounded, and a closed one makes room for another", () => {
    const { addresses } = setUp({ connectionsPerAddressMax: 2 });
    expect([1, 2, 3].map(() => addresses.connect(HERE))).toEqual([null, null, "connections from your address"]);
    expect(addresses.connect(ELSEWHERE)).toBeNull();
    addresses.disconnect(HERE);
    expect([1, 2].map(() => addresses.connect(HERE))).toEqual([null, "connections from your address"]);
  });

  test("new connections of an address have a rate with a burst, also when they close at once", () => {
    const { addresses, pass } = setUp({ connectionsPerSecondMax: 4 });
    const connect = (): string | null => {
      const tooMany = addresses.connect(HERE);
      if (tooMany === null) addresses.disconnect(HERE);
      return tooMany;
    };
    const all = Array.from({ length: 5 }, connect);
    expect(all).toEqual([null, null, null, null, "new connections from your address"]);
    pass(200);
    expect(connect()).not.toBeNull();
    pass(50);
    expect([connect(), connect()]).toEqual([null, "new connections from your address"]);
    expect(addresses.connect(ELSEWHERE)).toBeNull();
  });

  test("all addresses of an IPv6 /64 share their limits", () => {
    const { addresses } = setUp({ connectionsPerAddressMax: 1 });
    expect(addresses.connect("2001:db8:0:1::1")).toBeNull();
    expect(addresses.connect("2001:db8:0:1:ffff::2")).not.toBeNull();
    expect(addresses.connect("2001:db8:0:2::1")).toBeNull();
  });

  test.each(["127.0.0.1", "127.255.0.1", "::1"])("%s has no limits unless limitsLoopback is set", (address) => {
    const limits = { connectionsPerAddressMax: 1, connectionsPerSecondMax: 1, failedLoginsPerMinuteMax: 1 };
    const { addresses } = setUp(limits);
    for (let i = 0; i < 5; i++) {
      expect(addresses.connect(address)).toBeNull();
      addresses.loginBegins(address);
      expect(addresses.loginWait(address)).toBe(0);
    }
    const { addresses: strict } = setUp({ ...limits, limitsLoopback: true });
    expect([strict.connect(address), strict.connect(address)]).toEqual([null, "connections from your address"]);
    strict.loginBegins(address);
    expect(strict.loginWait(address)).toBe(60);
  });

  test("a limit of 0 is no limit", () => {
    const none = { connectionsPerAddressMax: 0, connectionsPerSecondMax: 0, failedLoginsPerMinuteMax: 0 };
    const { addresses } = setUp(none);
    for (let i = 0; i < 1000; i++) {
      expect(addresses.connect(HERE)).toBeNull();
      addresses.loginBegins(HERE);
    }
    expect(addresses.loginWait(HERE)).toBe(0);
  });
});

describe("addresses are forgotten", () => {
  test("an address is forgotten when it has no connection and its budgets are full, not before", () => {
    const { addresses, pass } = setUp({ failedLoginsPerMinuteMax: 2 });
    addresses.connect(HERE);
    addresses.connect(ELSEWHERE);
    pass(2 * ADDRESSES_IDLE_MS);
    expect(addresses.loginWait(HERE)).toBe(0);
    for (let i = 0; i < 2; i++) addresses.loginBegins(HERE);
    addresses.disconnect(HERE);
    pass(20_000);
    addresses.connect(ELSEWHERE);
    expect(addresses.loginWait(HERE)).toBe(10);
    pass(ADDRESSES_IDLE_MS);
    addresses.connect("192.0.2.3");
    expect(addresses.size).toBe(2);
    expect(addresses.loginWait(HERE)).toBe(0);
  });

  test("the longest unused address is forgotten when there are too many, but none with a connection", () => {
    const { addresses } = setUp({ connectionsPerAddressMax: 1 });
    addresses.connect(HERE);
    for (let i = 0; i <= ADDRESSES_IDLE_MAX; i++) {
      const address = `2001:db8:${(i >> 16).toString(16)}:${(i & 0xffff).toString(16)}::1`;
      addresses.connect(address);
      addresses.disconnect(address);
    }
    expect(addresses.size).toBe(ADDRESSES_IDLE_MAX + 1);
    expect(addresses.connect(HERE)).not.toBeNull();
  });
});

describe("logins that fail", () => {
  const limits = { failedLoginsPerMinuteMax: 6 };

  test("failed logins count for all users of an address; then each login is busy, and nothing is closed", () => {
    const world = new World(["alice", "bob", "carol"], { limits });
    const peer = world.connect(HERE);
    for (const name of ["nobody", "alice", "bob", "carol"]) world.say(peer, `login ${name} wrong`);
    for (const name of ["nobody", "x"]) world.say(world.connect(HERE), `login ${name} wrong`);
    peer.read();
    expect(world.ask(peer, "login nobody x")).toEqual(["err busy too many failed logins; try again in 10 s"]);
    expect(world.ask(peer, `login alice ${PASSWORD}`)).toEqual(["err busy too many failed logins; try again in 10 s"]);
    expect(world.ask(world.connect(ELSEWHERE), `login alice ${PASSWORD}`)[0]).toMatch(/^ok /);
    world.pass(9_800);
    expect(world.ask(peer, `login bob ${PASSWORD}`)).toEqual(["err busy too many failed logins; try again in 1 s"]);
    world.pass(300);
    expect(world.ask(peer, `login bob ${PASSWORD}`)[0]).toMatch(/^ok /);
  });

  test("logins count as failed during verification, so no more run at once than may fail", async () => {
    const world = new World(["alice", "bob"], { limits });
    const verdict = Promise.withResolvers<boolean>();
    world.verify = () => verdict.promise;
    const peers = Array.from({ length: 8 }, () => world.connect(HERE));
    for (const [i, peer] of peers.entries()) world.say(peer, `login ${i % 2 === 0 ? "alice" : "bob"} ${PASSWORD}`);
    const busy = peers.filter((peer) => peer.read().join().startsWith("err busy too many failed logins"));
    expect(busy).toHaveLength(2);
    verdict.resolve(true);
    await world.later();
    world.verify = () => true;
    expect(world.login("alice", HERE).read()[0]).toMatch(/^ok /);
  });

  test("successful logins do not count as failed", () => {
    const world = new World(["alice"], { limits });
    for (let i = 0; i < 20; i++) expect(world.login("alice", HERE).read()[0]).toMatch(/^ok /);
  });

  test("busy logins do not count for a lockout", () => {
    const world = new World(["alice"], { limits: { failedLoginsPerMinuteMax: 1 } });
    const peer = world.connect(HERE);
    world.say(peer, "login nobody x", "login alice a", "login alice b", "login alice c");
    expect(peer.read().map((line) => line.slice(0, 9))).toEqual(["err unkno", "err busy ", "err busy ", "err busy "]);
    world.pass(60_100);
    expect(world.ask(peer, "login alice a")).toEqual(["err wrong_password 2"]);
  });
});

describe("the address that counts", () => {
  test.each([
    ["192.0.2.1", "192.0.2.1"],
    ["::ffff:192.0.2.1", "192.0.2.1"],
    ["2001:db8:1:2::9", "2001:db8:1:2:7:7:7:7"],
    ["2001:db8::1", "2001:0db8:0000:0000:1:2:3:4"],
    ["2001:db8::1:2:3:4:5", "2001:db8:0:1::"],
    ["::1", "0:0:0:0::2"],
    ["fe80::1%eth0", "fe80::2"],
  ])("of %s is that of %s", (one, other) => {
    expect(source(one)).toBe(source(other));
  });

  test.each([
    ["192.0.2.1", "192.0.2.10"],
    ["2001:db8:1:2::1", "2001:db8:1:3::1"],
    ["2001:db8:1::1", "2001:db8:1:1::1"],
    ["::1", "::1:0:0:0:0"],
  ])("of %s is not that of %s", (one, other) => {
    expect(source(one)).not.toBe(source(other));
  });
});

describe("when a limit changes", () => {
  test("connections from before count, also those of an address that was exempt", () => {
    const { addresses, limits } = setUp({ connectionsPerAddressMax: 0 });
    for (let i = 0; i < 3; i++) expect([addresses.connect(HERE), addresses.connect("::1")]).toEqual([null, null]);
    Object.assign(limits, { connectionsPerAddressMax: 3, limitsLoopback: true });
    for (const address of [HERE, "::1"]) {
      expect(addresses.connect(address)).toBe("connections from your address");
      addresses.disconnect(address);
      expect(addresses.connect(address)).toBeNull();
    }
  });

  test("failed logins from before do not count if they had no limit", () => {
    const { addresses, limits } = setUp({ failedLoginsPerMinuteMax: 0 });
    addresses.connect(HERE);
    for (let i = 0; i < 1000; i++) addresses.loginBegins(HERE);
    limits.failedLoginsPerMinuteMax = 30;
    expect(addresses.loginWait(HERE)).toBeLessThanOrEqual(2);
    for (let i = 0; i < 1000; i++) addresses.loginEnds(HERE);
    expect(addresses.loginWait(HERE)).toBe(0);
  });

  test("a rate of new connections begins to apply", () => {
    const { addresses, limits, pass } = setUp({ connectionsPerSecondMax: 0 });
    for (let i = 0; i < 100; i++) addresses.connect(HERE);
    limits.connectionsPerSecondMax = 2;
    limits.connectionsPerAddressMax = 0;
    pass(1000);
    expect([1, 2, 3].map(() => addresses.connect(HERE))).toEqual([null, null, "new connections from your address"]);
  });
});
