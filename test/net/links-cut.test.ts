/** A link between two shards on simulated sockets, cut at any byte, while records take their time. */
import { expect, test } from "bun:test";
import pino from "pino";
import { LINK_RETRY_MAX_MS } from "../../src/limits.ts";
import { Directory } from "../../src/net/directory.ts";
import { NeighbourLinks } from "../../src/net/neighbour-links.ts";
import type { DialEvents, Owner } from "../../src/net/owner-link.ts";
import { shardOf } from "../../src/protocol/shard.ts";
import { type TestPeer, World } from "../support/chat.ts";
import { OwnerEnd, SECRET } from "../support/owner-end.ts";
import { Random, seedsFor } from "../support/random.ts";
import { Wire } from "../support/simulated-transport.ts";

const SHARDS = 2;
const STEPS = 400;
const NAMES = Array.from({ length: 20 }, (_, i) => `user${i}`);
const OWNER: Owner = { shard: 0, host: "10.0.0.1", port: 6010, epoch: 5 };

function usersOf(shard: number): string[] {
  return NAMES.filter((name) => shardOf(Buffer.from(name), 0, name.length, SHARDS) === shard);
}

function newWorld(home: number): World {
  return new World(NAMES, {
    shards: { home, count: SHARDS, warn: (what) => void expect(what).toBe("") },
    limits: { requestsPerSecondMax: 0 },
  });
}

/** The connection of one link: bytes that are on their way, in both directions. */
class Pipe {
  readonly end: OwnerEnd;
  readonly #to: World;
  #wire: Wire | null = null;
  #isCut = false;
  #up = "";
  #down = "";

  constructor(owner: Owner, events: DialEvents, from: World, to: World) {
    this.end = new OwnerEnd(owner, events, from);
    this.#to = to;
  }

  /** The handshake, at once; relayed-connections.test.ts has that of real sockets. */
  #greet(): boolean {
    const [first, , heard] = this.end.greetLink();
    if (first === undefined || heard === undefined) return false; // The line `heard` waits for a record.
    const wire = new Wire({}, this.#to);
    this.#wire = wire;
    wire.event(() => this.#to.chat.neighbours!.connected(wire.connection, 1, 7, Number(heard.split(" ")[1])));
    return true;
  }

  /** Carries up to `count` bytes each way. */
  carry(count: number): void {
    if (this.#isCut || this.end.ended) return this.cut();
    if (this.#wire === null && !this.#greet()) return this.cut();
    const wire = this.#wire!;
    this.#down += wire.take();
    this.#up += this.end.read().toString("latin1");
    const [down, up] = [this.#down.slice(0, count), this.#up.slice(0, count)];
    this.#down = this.#down.slice(down.length);
    this.#up = this.#up.slice(up.length);
    if (up !== "") wire.feed(up);
    if (down !== "" && !this.end.ended) this.end.say(down);
    if (wire.hungUp) this.cut();
  }

  /** What is on its way is lost. */
  cut(): void {
    if (this.#isCut) return;
    this.#isCut = true;
    const wire = this.#wire;
    if (wire !== null) wire.event(() => wire.connection.closed());
    if (!this.end.ended) this.end.closed(true);
  }
}

test.each(seedsFor("links that are cut", 40))(
  "a link that is cut at any byte loses and doubles nothing, seed %d",
  async (seed) => {
    const random = new Random(seed);
    const [p, q] = [newWorld(0), newWorld(1)];
    const pipes: Pipe[] = [];
    const lost: string[] = [];
    const directory = new Directory(SHARDS);
    directory.set(0, OWNER, OWNER.epoch);
    const links = new NeighbourLinks({
      connections: q.connections,
      requests: q.foreignRequests,
      others: q.neighbourEvents!,
      secret: SECRET,
      dial: (owner, events) => void pipes.push(new Pipe(owner, events, q, p)),
      self: { shard: 1, epoch: 7 },
      directory,
      log: pino({ base: null }, { write: (line) => void lost.push(JSON.parse(line).reason) }),
    });
    q.begin();
    links.start();
    q.endTurns();

    const saves: (() => void)[] = [];
    let isSlow = false;
    for (const world of [p, q]) {
      const save = world.saves;
      world.saves = () => {
        const isSaved = save();
        return isSlow && isSaved === true ? new Promise<void>((resolve) => void saves.push(resolve)) : isSaved;
      };
    }
    const settle = async (): Promise<void> => {
      for (const save of saves.splice(0)) save();
      for (const world of [p, q]) await world.later();
    };

    const senders = p.online(...usersOf(0).slice(0, 2));
    const [online, offline] = usersOf(1) as [string, string];
    const [reader] = q.online(online);
    const requests: { to: string; text: string }[][] = senders.map(() => []);
    const replies: string[][] = senders.map(() => []);
    const received: string[] = [];
    const read = (): void => {
      for (const [i, sender] of senders.entries())
        replies[i]!.push(...sender.read().filter((line) => /^(ok|err)/.test(line)));
      received.push(...reader!.read().filter((line) => line.startsWith("message ")));
    };

    for (let step = 0; step < STEPS; step++) {
      const pipe = pipes.at(-1);
      const choice = random.below(100);
      if (choice < 45) {
        const i = random.below(senders.length);
        const request = { to: random.below(2) === 0 ? online : offline, text: `text ${i} ${step}` };
        requests[i]!.push(request);
        p.say(senders[i]!, `message ${request.to} ${request.text}`);
      } else if (choice < 85) pipe?.carry(1 + random.below(120));
      else if (choice < 88) pipe?.cut();
      else if (choice < 94) for (const world of [p, q]) world.pass(64 * (1 + random.below(8)));
      else isSlow = random.below(2) === 0;
      if (!isSlow || random.below(4) === 0) await settle();
      read();
    }

    isSlow = false;
    const isDone = (): boolean => requests.every((each, i) => each.length === replies[i]!.length);
    for (let i = 0; i < 400 && !isDone(); i++) {
      await settle();
      for (const world of [p, q]) world.pass(LINK_RETRY_MAX_MS / 10);
      for (let n = 0; n < 4; n++) pipes.at(-1)?.carry(1 << 20);
      read();
    }
    // Whatever has happened, the link works in the end.
    for (let i = 0; i < 40 && links.up === 0; i++) {
      await settle();
      for (const world of [p, q]) world.pass(LINK_RETRY_MAX_MS / 10);
      pipes.at(-1)?.carry(1 << 20);
    }
    p.say(senders[0]!, `message ${online} last`);
    for (let n = 0; n < 4; n++) pipes.at(-1)!.carry(1 << 20);
    expect(senders[0]!.read().filter((line) => /^(ok|err)/.test(line))).toEqual(["ok sent"]);
    expect(reader!.read().at(-1)).toBe(`message ${senders[0]!.session!.account.name} last`);

    const late: TestPeer = q.login(offline);
    q.announce();
    received.push(...late.read().filter((line) => line.startsWith("stored ")));

    expect(requests.map((each) => each.length)).toEqual(replies.map((each) => each.length));
    const texts = received.map((line) => line.slice(line.indexOf("text")));
    for (const [i, each] of requests.entries()) {
      for (const to of [online, offline]) {
        const accepted = each.filter((request, n) => request.to === to && replies[i]![n]!.startsWith("ok"));
        const outcomes = each.flatMap((request, n) => (request.to === to ? [replies[i]![n]!] : []));
        expect(outcomes.join("\n")).toMatch(
          to === online ? /^(ok sent|err busy .*|\n)*$/ : /^(ok stored|err busy .*|\n)*$/,
        );
        const ofBoth = texts.filter((text) => each.some((request) => request.text === text && request.to === to));
        expect(ofBoth).toEqual(accepted.map(({ text }) => text));
      }
    }
    expect([...p.faults, ...q.faults]).toEqual([]);
    expect(lost.filter((reason) => !["closed", "silent", "handshake", undefined].includes(reason))).toEqual([]);
  },
);
