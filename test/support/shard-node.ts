/**
 * A cluster of two shards in one process: each server has its store on a modelled log, and the real ends of links and
 * connections. Lines between them wait in pipes until a test carries them, so a server can be stopped between any two.
 */
import type { Database } from "bun:sqlite";
import pino from "pino";
import { SharedJournal } from "../../src/cluster/shared-journal.ts";
import type { SharedLog } from "../../src/cluster/shared-log.ts";
import { takeOver } from "../../src/cluster/takeover.ts";
import { type HandshakeFields, newNonce, proofOf } from "../../src/net/cluster-handshake.ts";
import { Connection } from "../../src/net/connection.ts";
import { Directory } from "../../src/net/directory.ts";
import { NeighbourLinks } from "../../src/net/neighbour-links.ts";
import type { DialEvents, Owner } from "../../src/net/owner-link.ts";
import type { Transport } from "../../src/net/transport.ts";
import { openDatabase } from "../../src/storage/database.ts";
import { Store } from "../../src/storage/store.ts";
import { UNIX_MS } from "./chat.ts";
import { newFolder } from "./folders.ts";
import { ModelledEngine } from "./modelled-log.ts";
import type { ShardServers } from "./shard-client.ts";
import { ShardOwner } from "./shard-owner.ts";
import { Wire } from "./simulated-transport.ts";
import { SHARDS, Shard } from "./shards.ts";

const SECRET = Buffer.from("the secret of the cluster");
/** So long that a link is dialed again after any pause. */
const STEP_MS = 600;

/** A link: what one side has written and the other side has not read. */
export class Pipe {
  readonly q: ShardNode;
  readonly p: ShardNode;
  readonly toQ: string[] = [];
  readonly toP: string[] = [];
  /** The kernel of P accepts nothing, so what P writes does not leave. */
  isFull = false;
  isCut = false;
  readonly #events: DialEvents;
  /** The side of P, after the handshake. */
  #connection: Connection | null = null;
  #said: HandshakeFields | null = null;
  /** Bytes of incomplete lines, by direction. */
  #begun = { toQ: "", toP: "" };

  constructor(q: ShardNode, p: ShardNode, events: DialEvents) {
    this.q = q;
    this.p = p;
    this.#events = events;
  }

  /** The connection is established. */
  open(): void {
    this.q.event(() => this.#events.connected(this.#transport("toP")));
  }

  #transport(direction: "toP" | "toQ"): Transport {
    const cut = (): void => this.cut();
    return {
      isEncrypted: false,
      isWebSocket: false,
      write: (bytes, start, count) => {
        if (this.isFull && direction === "toQ") return 0;
        const lines = (this.#begun[direction] + bytes.toString("latin1", start, start + count)).split("\n");
        this.#begun[direction] = lines.pop()!;
        if (!this.isCut) this[direction].push(...lines);
        return count;
      },
      send: () => 0,
      pause: () => {},
      resume: () => {},
      shutdown: () => {},
      end: cut,
      reset: cut,
      handOver: () => {},
      closed: () => {},
      release: () => {},
    };
  }

  /** Q reads one line, if it runs. False when there was none. */
  stepQ(): boolean {
    if (this.q.isStopped || this.toQ.length === 0) return false;
    const line = this.toQ.shift()!;
    this.q.event(() => this.#events.data(Buffer.from(`${line}\n`, "latin1")));
    return true;
  }

  /** P reads one line, if it runs. */
  stepP(): boolean {
    if (this.p.isStopped || this.toP.length === 0) return false;
    const line = this.toP.shift()!;
    const connection = this.#connection;
    if (connection === null) this.#greet(line);
    else this.p.event(() => connection.data(Buffer.from(`${line}\n`, "latin1")));
    return true;
  }

  /** The handshake of P (relayed-connections.ts), which needs a real socket there. */
  #greet(line: string): void {
    const { shard, epoch } = this.p.owner;
    const [verb, ...words] = line.split(" ");
    if (verb === "link") {
      this.#said = { first: line, shard, epoch, ownerNonce: newNonce() };
      this.toQ.push(`owner ${shard} ${epoch} ${this.#said.ownerNonce} ${proofOf("owner", SECRET, this.#said)}`);
    } else if (verb === "proof" && words[0] !== proofOf("dialer", SECRET, this.#said!))
      throw new Error("a wrong proof");
    else if (verb === "heard") {
      const [, , , qShard, qEpoch] = this.#said!.first.split(" ").map(Number);
      const transport = this.#transport("toQ");
      const { connections, chat } = this.p.world;
      this.p.event(() => {
        this.#connection = new Connection(connections, transport, "127.0.0.1");
        chat.neighbours!.connected(this.#connection, qShard!, qEpoch!, Number(words[0]));
      });
    }
  }

  /** P does not send a request that it should: a fault of P that Q must notice. */
  loseForward(): void {
    const index = this.toQ.findIndex((line) => line.startsWith("message "));
    if (index >= 0) this.toQ.splice(index, 1);
  }

  /** Both ends that run see the end of the connection; what was not read is lost. */
  cut(): void {
    if (this.isCut) return;
    this.isCut = true;
    this.toQ.length = this.toP.length = 0;
    if (!this.q.isStopped) this.q.event(() => this.#events.closed());
    if (!this.p.isStopped && this.#connection !== null) this.p.event(() => this.#connection!.closed());
  }
}

/** A server that owns a shard, from its claim on. */
export class ShardNode {
  readonly cluster: ShardCluster;
  readonly process: ShardOwner;
  readonly world: Shard;
  readonly owner: Owner;
  readonly directory = new Directory(SHARDS);
  readonly links: NeighbourLinks;
  /** It runs no code: it is killed, or paused for a while. */
  isStopped = false;
  /** Pauses between the repetitions of an append do not end. */
  holdsPauses = false;
  readonly #pauses: (() => void)[] = [];

  private constructor(cluster: ShardCluster, shard: number, process: ShardOwner, store: Store) {
    this.cluster = cluster;
    this.process = process;
    const { epoch } = process.appender;
    this.owner = { shard, host: "127.0.0.1", port: epoch, epoch };
    this.world = new Shard(shard, epoch, { store, clockMs: process.clockMs, firstToken: cluster.firstToken });
    process.nowMs = () => this.world.clockMs;
    process.pause = () =>
      this.holdsPauses ? new Promise((resolve) => void this.#pauses.push(resolve)) : this.world.later();
    this.links = new NeighbourLinks({
      connections: this.world.connections,
      requests: this.world.foreignRequests,
      others: this.world.neighbourEvents!,
      secret: SECRET,
      dial: (owner, events) => cluster.dial(this, owner, events),
      self: this.owner,
      directory: this.directory,
      log: pino({ level: "silent" }),
    });
  }

  static async start(cluster: ShardCluster, shard: number): Promise<ShardNode> {
    // An append of the last owner may come first: then the next claim follows it.
    let process = new ShardOwner(cluster.engine, undefined, shard);
    while (!(await process.claim())) process = new ShardOwner(cluster.engine, undefined, shard);
    const { appender, log } = process;
    const database =
      appender.head === 1 ? openDatabase(":memory:", "none") : await databaseOf(log, shard, appender.head);
    const journal = new SharedJournal(appender, () => process.nowMs());
    return new ShardNode(cluster, shard, process, new Store(database, journal, true));
  }

  event(happen: () => void): void {
    this.world.begin();
    happen();
    this.world.endTurns();
  }

  /** The repetitions of an append go on. */
  releasePauses(): void {
    this.holdsPauses = false;
    for (const resolve of this.#pauses.splice(0)) resolve();
  }

  /**
   * It was paused, and runs again with what it had: it must find that another one owns the shard. Afterwards it is
   * stopped for good.
   */
  async wake(): Promise<void> {
    const { log, ends } = this.process;
    this.isStopped = false;
    this.world.clockMs += 3_000;
    log.outcome = () => "done";
    log.resume();
    this.releasePauses();
    const wire = new Wire({}, this.world);
    wire.feed("online\n");
    for (let i = 0; i < 10; i++) {
      this.world.pass(100);
      for (let j = 0; j < 10; j++) await this.world.later();
    }
    this.isStopped = true;
    if (ends[0]?.kind !== "deposed" || wire.take().length > 0)
      throw new Error(
        `a server that was paused does not know that it is deposed: ${JSON.stringify([ends, wire.take(), log.waiting, this.world.store.isSlow, this.world.store.isCongested, log.calls])}`,
      );
  }

  /** It is killed, in the middle of whatever it does: nothing of it reaches the engine or a socket any more. */
  kill(): void {
    this.isStopped = true;
    this.process.log.stop();
    for (const pipe of this.cluster.pipesOf(this)) pipe.cut();
  }
}

/** A new shard needs none of this. */
async function databaseOf(log: SharedLog, shard: number, upTo: number): Promise<Database> {
  const options = { unixMs: UNIX_MS, progress: () => {} };
  return (await takeOver(log, shard, upTo, newFolder(), options)).database;
}

/** Two shards: a server of each, and the log that they share. */
export class ShardCluster implements ShardServers<ShardNode> {
  readonly engine: ModelledEngine;
  readonly pipes: Pipe[] = [];
  /** The owners, by shard. */
  readonly nodes: ShardNode[] = [];
  readonly #dialed: Pipe[] = [];

  /** Tokens of this cluster are numbered from there on. */
  readonly firstToken: number;

  constructor(engine = new ModelledEngine(SHARDS), firstToken = 1) {
    this.engine = engine;
    this.firstToken = firstToken;
  }

  static async start(engine?: ModelledEngine, firstToken?: number): Promise<ShardCluster> {
    const cluster = new ShardCluster(engine, firstToken);
    for (let shard = 0; shard < SHARDS; shard++) await cluster.takeOver(shard);
    await cluster.settle();
    return cluster;
  }

  /** Another server becomes the owner of a shard. The others do not know yet. */
  async claim(shard: number): Promise<ShardNode> {
    const node = await ShardNode.start(this, shard);
    this.nodes[shard] = node;
    return node;
  }

  /** All servers that run know all owners. */
  publish(): void {
    for (const node of this.nodes) {
      if (node.isStopped) continue;
      node.event(() => {
        for (const { owner } of this.nodes) node.directory.set(owner.shard, owner, owner.epoch);
      });
      if (node.directory.home === null) node.event(() => node.links.start());
      node.directory.home = node.owner.shard;
    }
  }

  async takeOver(shard: number): Promise<ShardNode> {
    const node = await this.claim(shard);
    this.publish();
    return node;
  }

  connect({ world }: ShardNode): Wire {
    return new Wire({}, world);
  }

  dial(q: ShardNode, { shard, epoch }: Owner, events: DialEvents): void {
    const p = this.nodes[shard]!;
    if (p.owner.epoch !== epoch || p.isStopped) return void queueMicrotask(() => events.failed("unreachable", "gone"));
    this.#dialed.push(new Pipe(q, p, events));
  }

  pipesOf(node: ShardNode): Pipe[] {
    return this.pipes.filter(({ q, p }) => q === node || p === node);
  }

  /** The link that `q` has opened to `p`. */
  pipe(q: number, p: number): Pipe {
    const found = this.pipes.find((pipe) => pipe.q === this.nodes[q] && pipe.p === this.nodes[p] && !pipe.isCut);
    if (found === undefined) throw new Error(`shard ${q} has no link to shard ${p}`);
    return found;
  }

  /** Appends and their answers travel, where the engine is not stopped. */
  async later(): Promise<void> {
    for (let i = 0; i < 10; i++) for (const node of this.nodes) if (!node.isStopped) await node.world.later();
  }

  /** Lines travel until there are none. */
  async carry(): Promise<void> {
    for (let isMoving = true; isMoving;) {
      await this.later();
      isMoving = this.#dialed.length > 0;
      for (const pipe of this.#dialed.splice(0)) {
        this.pipes.push(pipe);
        if (!pipe.q.isStopped) pipe.open();
      }
      for (const pipe of this.pipes) while (!pipe.isCut && (pipe.stepQ() || pipe.stepP())) isMoving = true;
    }
  }

  /** Time passes, so that links which were lost are dialed again, and everything arrives. */
  async settle(): Promise<void> {
    for (let i = 0; i < 4; i++) {
      await this.carry();
      for (const node of this.nodes) if (!node.isStopped) node.world.pass(STEP_MS);
    }
    await this.carry();
  }
}
