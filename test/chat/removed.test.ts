import { expect, test } from "bun:test";
import { PASSWORD, World } from "../support/chat.ts";

function remove(world: World, name: string): void {
  world.begin();
  world.chat.remove(world.account(name));
  world.endTurns();
  world.announce();
}

test("a removed user receives goodbye removed and is unknown_user from then on", () => {
  const world = new World(["alice", "bob"]);
  const [alice, bob] = world.online("alice", "bob");
  remove(world, "bob");
  expect(bob!.read()).toEqual(["goodbye removed"]);
  expect(bob!.isClosed).toBe(true);
  expect(alice!.read()).toEqual(["left bob removed"]);
  for (const line of ["message bob hello", "block bob", "unblock bob", "getaddress bob"]) {
    expect(world.ask(alice!, line)).toEqual(["err unknown_user"]);
  }
  expect(world.ask(alice!, "online")).toEqual(["ok"]);
  expect(world.ask(world.connect(), `login bob ${PASSWORD}`)).toEqual(["err unknown_user"]);
});

test("a user who is added again finds the mailbox and the blocks", () => {
  const world = new World(["alice", "bob", "carol"]);
  const [alice, bob, carol] = world.online("alice", "bob", "carol");
  world.say(bob!, "block carol");
  bob!.room = 0;
  world.say(alice!, "message bob one");
  remove(world, "bob");
  bob!.hangUp();
  world.endTurns();
  remove(world, "alice");
  world.chat.accounts.add("bob", "new");
  carol!.read();
  expect(world.ask(carol!, "message bob two")).toEqual(["err blocked"]);
  world.verify = () => true;
  const back = world.login("bob");
  expect(back.read()).toEqual([expect.stringMatching(/^ok /), expect.stringMatching(/^stored alice \d+ one$/)]);
});

test("a login whose user is removed while the password is verified is refused", async () => {
  const world = new World(["alice"]);
  const verdict = Promise.withResolvers<boolean>();
  world.verify = () => verdict.promise;
  const peer = world.login("alice");
  remove(world, "alice");
  verdict.resolve(true);
  await world.later();
  expect(peer.read()).toEqual(["err unknown_user"]);
  expect(world.ask(peer, "alive")).toEqual(["err not_logged_in"]);
});

test("an attempt that waited while its user was removed is refused without a verification", async () => {
  const world = new World(["alice"]);
  const verdict = Promise.withResolvers<boolean>();
  let verified = 0;
  world.verify = () => (verified++, verdict.promise);
  const [first, second] = [world.login("alice"), world.login("alice")];
  remove(world, "alice");
  verdict.resolve(true);
  await world.later();
  await world.later();
  expect([first!.read(), second!.read()]).toEqual([["err unknown_user"], ["err unknown_user"]]);
  expect(verified).toBe(1);
});

test("a login whose password is changed while it is verified is refused", async () => {
  const world = new World(["alice"]);
  const verdict = Promise.withResolvers<boolean>();
  world.verify = () => verdict.promise;
  const peer = world.login("alice");
  world.account("alice").password = "another";
  verdict.resolve(true);
  await world.later();
  expect(peer.read()).toEqual([expect.stringMatching(/^err busy /)]);
  expect(world.ask(peer, "alive")).toEqual(["err not_logged_in"]);
});

test("a login that hung up before its verification counts as a failed login but not as a wrong password", async () => {
  const world = new World(["alice"], { limits: { failedLoginsPerMinuteMax: 3 } });
  const { verify } = world;
  world.verify = () => Promise.resolve(null);
  for (let i = 0; i < 3; i++) {
    world.login("alice");
    await world.later();
  }
  world.verify = verify;
  expect(world.ask(world.connect(), "login alice guess")).toEqual([expect.stringMatching(/^err busy /)]);
  expect(world.ask(world.connect("192.0.2.9"), "login alice guess")).toEqual(["err wrong_password 2"]);
  world.pass(20_000);
  expect(world.ask(world.connect(), "login alice guess")).toEqual(["err wrong_password 2"]);
});

test("a login is busy and counts as no attempt when too many verifications wait", async () => {
  const world = new World(["alice"]);
  const { verify } = world;
  world.verify = () => null;
  const peer = world.connect();
  for (let i = 0; i < 4; i++) expect(world.ask(peer, "login alice guess")[0]).toMatch(/^err busy /);
  world.verify = verify;
  expect(world.ask(peer, `login alice ${PASSWORD}`)).toEqual([expect.stringMatching(/^ok /)]);
});
