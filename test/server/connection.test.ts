import { expect, test } from "bun:test";
import type { Socket } from "bun";
import { Connection, Connections } from "../../src/server/connection.ts";
import { World } from "../support/chat.ts";

/** A connection whose socket takes what `room` allows; with a descriptor, the kernel is asked first. */
function connection(world: World, fd?: number) {
  const socket = { fd, remoteAddress: "192.0.2.1", room: Number.POSITIVE_INFINITY, sent: "", end: () => {} };
  const write = (bytes: Buffer, start: number, count: number): number => {
    const taken = Math.min(socket.room, count);
    socket.sent += bytes.toString("latin1", start, start + taken);
    return taken;
  };
  const [pause, resume] = [() => {}, () => {}];
  const all = new Connections(world.chat, 4096, 0);
  const it = new Connection(all, { ...socket, write, pause, resume } as unknown as Socket<Connection | null>);
  return { it, socket };
}

test("what goes to everybody does not overtake the reply to a login that the kernel had no room for", () => {
  const world = new World(["alice", "bob"]);
  const [alice] = world.online("alice");
  const { it, socket } = connection(world);
  socket.room = 3;
  world.begin();
  it.data(Buffer.from("login bob secret\n"));
  world.endTurns();
  world.announce();
  expect(socket.sent).toBe("ok ");
  // Somebody says something to all, and in the same turn there is room again.
  world.begin();
  alice!.feed(Buffer.from("broadcast one\n"));
  world.chat.announceNow();
  socket.room = Number.POSITIVE_INFINITY;
  it.drain();
  world.endTurns();
  expect(socket.sent).toMatch(/^ok \S+ 35\nbroadcast alice one\n$/);
});

test("a connection that is closed writes nothing where its descriptor may be somebody else's", async () => {
  const world = new World(["bob"]);
  let heard = "";
  const ended = Promise.withResolvers<void>();
  const accepted = Promise.withResolvers<Socket<undefined>>();
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { open: accepted.resolve, data: () => {} } });
  await Bun.connect({
    hostname: "127.0.0.1",
    port: listener.port,
    socket: {
      data: (_socket, chunk) => {
        heard += chunk.toString();
        if (heard.endsWith("end")) ended.resolve();
      },
    },
  });
  const socket = await accepted.promise;
  const { it } = connection(world, (socket as unknown as { fd: number }).fd);
  world.begin();
  it.data(Buffer.from("login bob secret\n"));
  world.endTurns();
  const bytes = Buffer.from("first");
  expect(it.write(bytes, 0, 5)).toBe(5);
  it.closed();
  it.write(bytes, 0, 5);
  socket.write("end");
  await ended.promise;
  expect(heard).toMatch(/^ok \S+ 35\nfirstend$/);
  listener.stop(true);
});
