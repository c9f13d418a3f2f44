import { afterEach, describe, expect, test } from "bun:test";
import pino from "pino";
import { Directory } from "../../src/net/directory.ts";
import { dialOwner, type Owner } from "../../src/net/owner-link.ts";
import { ANSWER_BEATS, SpareLinks, UNSEEN_BEATS } from "../../src/net/spare-links.ts";
import { KnownSpares, SPARES_MAX, SPARE_FORGOTTEN_MS, SpareConnection } from "../../src/net/spares.ts";
import { ClusterPort } from "../../src/server/cluster-port.ts";
import type { ClusterTlsConfig } from "../../src/server/config.ts";
import { World } from "../support/chat.ts";
import { makeCertificate, writeClusterCertificate } from "../support/certificate.ts";
import { newAdmission } from "../support/cluster-port.ts";
import { removeFolders } from "../support/folders.ts";
import { OwnerEnd, SECRET } from "../support/owner-end.ts";

const SELF = { address: "10.0.0.9:6010", version: "1.2.0" };
const SAID = `spare ${SELF.address} ${SELF.version}`;

/** A clock that the test moves, and what is known by it. */
class Known {
  nowMs = 1_000_000;
  readonly spares = new KnownSpares(() => this.nowMs);

  /** `<address> <version> <ms>` */
  get list(): string[] {
    return this.spares.all.map(({ address, version, heardMs }) => `${address} ${version} ${this.nowMs - heardMs}`);
  }
}

describe("a server knows the spares that were heard of", () => {
  test("in the order of addresses, each with its last sign of life, until SPARE_FORGOTTEN_MS after it", () => {
    const known = new Known();
    known.spares.heard("10.0.0.2:6010", "1.1.0");
    known.spares.heard("10.0.0.1:6010", "1.0.0");
    known.nowMs += 400;
    known.spares.heard("10.0.0.1:6010", "1.2.0");
    known.spares.heard("10.0.0.2:6010", "0.9.0", 500);
    expect(known.list).toEqual(["10.0.0.1:6010 1.2.0 0", "10.0.0.2:6010 1.1.0 400"]);
    known.nowMs += SPARE_FORGOTTEN_MS - 399;
    expect(known.list).toEqual([`10.0.0.1:6010 1.2.0 ${SPARE_FORGOTTEN_MS - 399}`]);
    known.nowMs += 400;
    expect(known.list).toEqual([]);
  });

  test("up to SPARES_MAX, so that no server can fill its memory", () => {
    const known = new Known();
    for (let i = 0; i <= SPARES_MAX; i++) known.spares.heard(`10.0.0.1:${i}`, "1.0.0");
    expect(known.list).toHaveLength(SPARES_MAX);
    known.nowMs += SPARE_FORGOTTEN_MS + 1;
    known.spares.heard("10.0.0.2:1", "1.0.0");
    expect(known.list).toEqual(["10.0.0.2:1 1.0.0 0"]);
  });
});

describe("an owner", () => {
  class Socket {
    out = "";
    room = Number.POSITIVE_INFINITY;
    ended = false;
    terminated = false;

    write(bytes: Buffer): number {
      const taken = Math.min(this.room, bytes.length);
      this.out += bytes.toString("latin1", 0, taken);
      return taken;
    }

    end(): void {
      this.ended = true;
    }

    terminate(): void {
      this.terminated = true;
    }
  }

  function connect(silentMs?: number): { known: Known; socket: Socket; connection: SpareConnection } {
    const known = new Known();
    const socket = new Socket();
    return { known, socket, connection: new SpareConnection(socket as never, known.spares, silentMs) };
  }

  test("replies to a spare with all spares that it knows, wherever the lines are cut", () => {
    const { known, socket, connection } = connect();
    known.spares.heard("10.0.0.1:6010", "1.0.0", 700);
    connection.data(Buffer.from(SAID.slice(0, 9)));
    expect(socket.out).toBe("");
    connection.data(Buffer.from(`${SAID.slice(9)}\n`));
    expect(socket.out).toBe(`spare 10.0.0.1:6010 1.0.0 700\n${SAID} 0\nok\n`);
    connection.end();
    expect([socket.ended, socket.terminated]).toEqual([true, false]);
    connection.closed();
  });

  test.each(["spare", "spare a", "spare a b c", "spare a \x1b[2J", "hello a b", "", `spare ${"a".repeat(300)} b`])(
    "closes the connection of a server that sends %j, and lists nothing of it",
    (line) => {
      const { known, socket, connection } = connect();
      connection.data(Buffer.from(`${line}\n`, "latin1"));
      expect([socket.terminated, socket.out, known.list]).toEqual([true, "", []]);
      connection.closed();
    },
  );

  test("closes a connection whose other side does not read, or is silent", async () => {
    const { socket, connection } = connect();
    socket.room = 5;
    connection.data(Buffer.from(`${SAID}\n`));
    expect(socket.terminated).toBe(true);
    connection.closed();
    const silent = connect(1);
    while (!silent.socket.terminated) await Bun.sleep(1);
  });
});

describe("a spare", () => {
  /** A spare, and the owners of two shards, played by the test. */
  class SpareWorld {
    readonly directory = new Directory(2);
    readonly known = new Known();
    readonly logged: string[] = [];
    readonly dialed: OwnerEnd[] = [];
    readonly links: SpareLinks;

    constructor() {
      const world = new World([]);
      const warn = ({ event }: { event: string }, text: string): void => void this.logged.push(`${event}: ${text}`);
      this.links = new SpareLinks({
        directory: this.directory,
        secret: SECRET,
        dial: (owner, events) => void this.dialed.push(new OwnerEnd(owner, events, world)),
        spares: this.known.spares,
        self: SELF,
        log: { ...pino({ level: "silent" }), warn } as never,
      });
    }

    own(shard: number, epoch = 1): void {
      this.directory.set(shard, { shard, epoch, host: "10.0.0.1", port: 6010 + shard }, epoch);
    }

    /** The attempts since the last call. */
    ends(): OwnerEnd[] {
      return this.dialed.splice(0);
    }

    beats(count: number): void {
      for (let i = 0; i < count; i++) this.links.beat();
    }

    /** Connected to the owner of shard 0, which has replied. */
    connected(): OwnerEnd {
      this.own(0);
      this.links.beat();
      const [end] = this.ends();
      end!.greetLink();
      end!.say("ok\n");
      return end!;
    }
  }

  test("says to the owner of each shard with each beat that it is there, once per reply", () => {
    const spare = new SpareWorld();
    spare.links.beat();
    expect(spare.ends()).toEqual([]);
    spare.own(0);
    spare.own(1);
    spare.links.beat();
    const ends = spare.ends();
    expect(ends.map((end) => end.greetLink())).toEqual([
      ["spare 1 <nonce> 0", "the right proof", SAID],
      ["spare 1 <nonce> 1", "the right proof", SAID],
    ]);
    spare.links.beat();
    expect(ends.map((end) => end.lines())).toEqual([[], []]);
    ends[0]!.say("ok\n");
    spare.links.beat();
    expect(ends.map((end) => end.lines())).toEqual([[SAID], []]);
  });

  test("knows itself and the spares that the owners name", () => {
    const spare = new SpareWorld();
    const end = spare.connected();
    end.say("spare 10.0.0.1:6010 1.0.0 700\nspare 10.0.0.2:6010 1.0.0 9");
    end.say("00\nok\n");
    spare.known.nowMs += 10;
    const others = ["10.0.0.1:6010 1.0.0 710", "10.0.0.2:6010 1.0.0 910"];
    expect(spare.known.list).toEqual([...others, `${SELF.address} 1.2.0 10`]);
  });

  test("dials again after ANSWER_BEATS without a reply, after a close, and when there is another owner", () => {
    const spare = new SpareWorld();
    const first = spare.connected();
    spare.beats(ANSWER_BEATS);
    expect([spare.ends(), first.wasReset]).toEqual([[], false]);
    spare.links.beat();
    const [second] = spare.ends();
    expect(first.wasReset).toBe(true);
    second!.greetLink();
    second!.end();
    spare.links.beat();
    const [third] = spare.ends();
    third!.failed();
    spare.links.beat();
    const [fourth] = spare.ends();
    fourth!.greetLink();
    spare.own(0, 2);
    spare.links.beat();
    const [fifth] = spare.ends();
    expect([fourth!.wasReset, fifth!.owner.epoch]).toEqual([true, 2]);
    spare.links.stop();
    fifth!.connected();
    expect([fifth!.ended, fifth!.lines()]).toEqual([true, []]);
  });

  test("closes the connection to an owner that sends something else, and lists nothing of it", () => {
    const spare = new SpareWorld();
    for (const line of ["hello", "ok 1", "spare a b", "spare a b -1", "spare a b 1 c"]) {
      const end = spare.connected();
      end.say(`${line}\nspare 10.0.0.1:6010 1.0.0 0\n`);
      expect(end.wasReset).toBe(true);
    }
    expect(spare.known.list).toEqual([`${SELF.address} 1.2.0 0`]);
  });

  test("logs once that an owner does not list it, and why", () => {
    const spare = new SpareWorld();
    const end = spare.connected();
    end.closed(true);
    for (let i = 0; i < 2 * UNSEEN_BEATS; i++) {
      spare.links.beat();
      spare.ends()[0]!.failed();
      if (i === UNSEEN_BEATS - 2) expect(spare.logged).toEqual([]);
    }
    expect(spare.logged).toEqual([
      expect.stringMatching(/^spare_unseen: the owner of shard 0 at 10\.0\.0\.1:6010 .*: connection refused; compare/),
    ]);
    spare.connected();
    spare.beats(UNSEEN_BEATS + 1);
    expect(spare.logged[1]).toContain("it does not answer");
  });
});

describe("over real connections", () => {
  const running: { stop(): void }[] = [];

  afterEach(() => {
    for (const each of running.splice(0).reverse()) each.stop();
    removeFolders();
  });

  /** A port for other servers. */
  function open(tls: ClusterTlsConfig | null): ClusterPort {
    const port = new ClusterPort({ listen: { host: "127.0.0.1", port: 0 }, tls });
    running.push(port);
    return port;
  }

  /** The owner of that shard, at that port. */
  function own(shard: number, port: ClusterPort, known: KnownSpares): Owner {
    const [admission, handlers] = newAdmission();
    port.serve({ secret: SECRET, shard, epoch: 1 }, admission, handlers, (purpose, socket) =>
      purpose === "spare" ? new SpareConnection(socket, known) : null,
    );
    return { shard, epoch: 1, host: "127.0.0.1", port: Number(port.address.split(":").at(-1)) };
  }

  function spare({ address, tls }: ClusterPort, directory: Directory, secret = SECRET): [SpareLinks, KnownSpares] {
    const spares = new KnownSpares();
    const self = { address, version: "1.2.0" };
    const log = pino({ level: "silent" });
    const links = new SpareLinks({ directory, secret, dial: dialOwner(tls, () => {}), spares, self, log });
    running.push(links);
    return [links, spares];
  }

  const addresses = ({ all }: KnownSpares): string[] => all.map(({ address }) => address);

  test.each(["TCP", "TLS"])("each owner and each spare knows all spares of the cluster, over %s", async (carrier) => {
    const authority = await makeCertificate(["cluster"]);
    const issued = await makeCertificate(["127.0.0.1"], { issuer: authority });
    const tls = carrier === "TLS" ? writeClusterCertificate(issued, authority) : null;
    const owners = [new KnownSpares(), new KnownSpares()];
    const directory = new Directory(owners.length);
    for (const [shard, known] of owners.entries()) directory.set(shard, own(shard, open(tls), known), 1);
    const ports = [open(tls), open(tls), open(tls)] as const;
    const [first, firstKnown] = spare(ports[0], directory);
    const [second, secondKnown] = spare(ports[1], directory);
    const [stranger, strangerKnown] = spare(ports[2], directory, Buffer.alloc(32, 8));
    const all = [ports[0].address, ports[1].address].sort();
    const isDone = (): boolean =>
      [...owners, firstKnown, secondKnown].every((known) => Bun.deepEquals(addresses(known), all));
    // A beat may make a slow connection begin again, so there are fewer and fewer.
    for (let polls = 20; !isDone(); polls *= 2) {
      for (const links of [first, second, stranger]) links.beat();
      for (let i = 0; i < polls && !isDone(); i++) await Bun.sleep(1);
    }
    expect(addresses(strangerKnown)).toEqual([ports[2].address]);
  });
});
