import { expect, test } from "bun:test";
import { type Accepted, type AcceptedSocket, Connection, Connections } from "../../src/server/connection.ts";
import { World } from "../support/chat.ts";

/** Two ends of a connection over the loopback: the accepted one, and what the other one has heard, which can wait. */
async function ends(drained: () => void) {
  const heard = { text: "", until: (_end: string): Promise<void> => Promise.resolve() };
  const accepted = Promise.withResolvers<AcceptedSocket>();
  const listener = Bun.listen<Accepted | null>({
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
        heard.text += chunk.toString("latin1");
        look();
      },
    },
  });
  heard.until = (end) =>
    new Promise((resolve) => {
      look = () => void (heard.text.endsWith(end) && resolve());
      look();
    });
  return { near: await accepted.promise, far, heard, stop: () => listener.stop(true) };
}

test("what goes to everybody does not overtake the reply to a login that the kernel had no room for", async () => {
  const world = new World(["alice", "bob"]);
  const [alice] = world.online("alice");
  let drain = (): void => {};
  const { near, far, heard, stop } = await ends(() => drain());
  far.pause();
  const filler = Buffer.alloc(64 << 10, "x");
  while (near.write(filler) === filler.length);
  const it = new Connection(new Connections(world.chat), near, "127.0.0.1");
  world.begin();
  it.data(Buffer.from("login bob secret\n"));
  world.endTurns();
  world.announce();
  // Somebody says something to all, and in the same turn there is room again.
  drain = () => {
    drain = () => {};
    world.begin();
    alice!.feed(Buffer.from("broadcast one\n"));
    world.chat.announceNow();
    it.drain();
    world.endTurns();
  };
  far.resume();
  await heard.until("one\n");
  expect(heard.text.replace(/^x*/, "")).toMatch(/^ok \S+ 35\nbroadcast alice one\n$/);
  stop();
});

test("a connection that is closed writes nothing where its descriptor may be somebody else's", async () => {
  const world = new World(["bob"]);
  const { near, heard, stop } = await ends(() => {});
  const it = new Connection(new Connections(world.chat), near, "127.0.0.1");
  world.begin();
  it.data(Buffer.from("login bob secret\n"));
  world.endTurns();
  const bytes = Buffer.from("first");
  expect(it.write(bytes, 0, 5)).toBe(5);
  it.closed();
  expect(it.write(bytes, 0, 5)).toBe(0);
  near.write("end");
  await heard.until("end");
  expect(heard.text).toMatch(/^ok \S+ 35\nfirstend$/);
  stop();
});
