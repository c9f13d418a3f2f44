import type { Database } from "bun:sqlite";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pino from "pino";
import { Appender, type OwnershipEnd } from "../../src/cluster/appender.ts";
import { RecordKind, decodeRecord, openedInfo } from "../../src/cluster/log-record.ts";
import { Lookout, isBeatDue } from "../../src/cluster/ownership.ts";
import { SharedJournal } from "../../src/cluster/shared-journal.ts";
import { ClusterError, type OwnerInfo } from "../../src/cluster/shared-log.ts";
import { Snapshots } from "../../src/cluster/snapshots.ts";
import { takeOver } from "../../src/cluster/takeover.ts";
import { Admission } from "../../src/net/admission.ts";
import { Directory } from "../../src/net/directory.ts";
import type { LinkEnd } from "../../src/net/neighbour-link.ts";
import { NeighbourLinks } from "../../src/net/neighbour-links.ts";
import { RelayedConnections } from "../../src/net/relayed-connections.ts";
import { type SocketHandlers, socketHandlers } from "../../src/net/socket-handlers.ts";
import { Ending } from "../../src/server/ending.ts";
import type { Checkpoints } from "../../src/storage/commits.ts";
import type { TurnLog } from "../../src/storage/turn-log.ts";
import type { Random } from "../support/random.ts";
import type { SimulatedLog, WatchedEngine } from "./cluster-log.ts";
import { Disk } from "./disk.ts";
import { Host, type HostChoices, ObservedStore, UNIX_MS } from "./host.ts";
import { type Ledger, Violation } from "./ledger.ts";
import type { Link, ServerLife } from "./network.ts";
import { owesNothing } from "./shard-checks.ts";
import { ShardLink, type ShardNetwork } from "./shard-network.ts";
import { callsCounted, copyDatabase, waitsCounted, withoutSize } from "./snapshot-doubles.ts";

/** In memory if possible: nothing of a takeover must outlive the process. */
const FOLDER = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
/** So few that compaction and snapshots begin after some turns. */
const SEGMENT_BYTES = [100, 300, 2000];
/** The engine answers a release within this time, or the shard is not released. */
const RELEASE_MS = 2_000;
/** Why no link of an owner that is in order ends. */
const LINK_FAULTS: readonly LinkEnd[] = ["gap", "overflow", "garbage", "fault", "secret", "tls"];
const LOG = pino({ level: "silent" });

/** What a process has in common with the others. */
export interface ClusterWorld {
  readonly engine: WatchedEngine;
  readonly random: Random;
  /** By shard. */
  readonly ledgers: readonly Ledger[];
  readonly calm: boolean;
  readonly isHarsh: boolean;
  readonly nowMs: number;
  readonly choices: Omit<HostChoices, "Store" | "clockMs" | "dial" | "shards" | "skewMs">;
  /** Bytes of the log after which a snapshot is taken. */
  readonly snapshotBytes: number;
  /** How many were published. */
  snapshots: number;
  /** By shard: the highest record that was acknowledged to any owner. */
  readonly ackedHeads: number[];
  /** Between the owners of several shards. */
  readonly shardNetwork: ShardNetwork;
  /** How far the wall clock of a new process is ahead. */
  skewMs(): number;
  failed(error: unknown): void;
  requeued(link: Link): void;
  dialerOf(process: ClusterProcess): HostChoices["dial"];
}

/**
 * One process of a cluster: a spare with the rules of ownership.ts, then an owner with the real core, store, journal and
 * snapshots on a modelled log. It is paused, killed and drained from outside.
 */
export class ClusterProcess implements ServerLife {
  readonly name: string;
  readonly log: SimulatedLog;
  state: "spare" | "claimed" | "serving" | "draining" | "over" = "spare";
  isPaused = false;
  host: Host | null = null;
  /** Connections that its kernel has accepted while it is paused. */
  readonly backlog: Link[] = [];
  appender: Appender | null = null;
  journal: SharedJournal | null = null;
  /** Another process has claimed the shard after this one; it may not know that. */
  isDeposed = false;
  /** Nothing leaves it any longer; it only releases the shard. */
  isHalted = false;
  /** A snapshot, since the last step. */
  hasPublished = false;
  readonly #world: ClusterWorld;
  #ledger: Ledger;
  /** Null without neighbours. */
  links: NeighbourLinks | null = null;
  readonly #stopped = { aborted: false };
  readonly #directory: Directory;
  readonly #lookout: Lookout;
  /** Of the port for the owners of other shards. */
  #handlers: SocketHandlers | null = null;
  #timers: { atMs: number; resolve: () => void }[] = [];
  #snapshots: Snapshots | null = null;
  /** A snapshot is being taken, and how many of its calls wait for the engine. */
  #isCopying = false;
  #waits = 0;
  #folder = "";
  /** Its wall clock is ahead by that. */
  readonly #skewMs: number;
  #disk: OwnerDisk | null = null;

  constructor(name: string, log: SimulatedLog, world: ClusterWorld) {
    this.name = name;
    this.log = log;
    this.#world = world;
    this.#ledger = world.ledgers[0]!;
    this.#skewMs = world.skewMs();
    this.#directory = new Directory(log.shards);
    const clock = { nowMs: this.#nowMs, sleep: this.#sleep };
    this.#lookout = new Lookout(log, { read: () => this.#seen() }, clock, world.random.below(1000) / 1000);
    void this.#standBy().catch((error: unknown) => this.#fails(error));
  }

  /** The one that it owns; the first one before it has one. */
  get shard(): number {
    return this.appender?.shard ?? 0;
  }

  get isDead(): boolean {
    return this.state === "over";
  }

  /** Nothing that it writes to a socket has an effect. */
  get isGone(): boolean {
    return this.isDead || this.isHalted;
  }

  /**
   * The output of turns up to that record may leave. What has left the turn, but not the process, may follow at any
   * time: it is true whoever owns the shard.
   */
  #release(sequence: number): void {
    const { epoch, provenMs } = this.appender!;
    const { engine, ledgers } = this.#world;
    const { head, epoch: current } = engine.shards[this.shard]!;
    if (this.isDead) return;
    if (current === epoch) {
      if (sequence > head)
        this.#world.failed(new Violation(`${this.name} replies before record ${sequence} is stored`));
      ledgers[this.shard]!.stored(sequence);
    } else if (provenMs < engine.silentMs[this.shard]!) {
      this.#world.failed(new Violation(`${this.name} replies after the claim of another process`));
    }
  }

  get isRunning(): boolean {
    return !this.isDead && !this.isPaused;
  }

  /** It serves, and waits for replies of other shards. */
  get owesReplies(): boolean {
    return this.accepts && this.host?.chat.neighbours?.owesReplies === true;
  }

  get accepts(): boolean {
    return this.state === "serving";
  }

  get isCopying(): boolean {
    return this.#isCopying && this.#waits === 0 && this.isRunning;
  }

  readonly #nowMs = (): number => this.#world.nowMs;

  readonly #sleep = (ms: number): Promise<void> =>
    new Promise((resolve) => this.#timers.push({ atMs: this.#world.nowMs + ms, resolve }));

  get #info(): OwnerInfo {
    return { address: this.name, version: "1", credentials: "c" };
  }

  async #standBy(): Promise<void> {
    const claim = async (shard: number, { head }: { head: number }): Promise<Appender | null> => {
      const appender = new Appender({
        log: this.log,
        shard,
        ended: this.#end,
        nowMs: this.#nowMs,
        pause: this.#sleep,
      });
      return (await appender.claim(head, this.#info)) ? appender : null;
    };
    const appender = await this.#lookout.standBy(claim, this.#stopped);
    if (appender === null || this.isDead) return;
    this.appender = appender;
    this.state = "claimed";
    // It may have been deposed between the claim and its answer, and its `Opened` be trimmed.
    this.#ledger = unlessDeposed(this.#world.ledgers[this.shard]!, this);
    const { epoch, records } = this.#world.engine.shards[this.shard]!;
    this.isDeposed = epoch !== appender.epoch;
    const opened = records.get(appender.epoch);
    if (opened !== undefined && openedBy(opened) !== this.name)
      this.#world.failed(new Violation(`record ${appender.epoch} is not the \`Opened\` of ${this.name}`));
  }

  /** See `ClusterView.note`. */
  #seen(): void {
    for (const { shard, state } of this.#lookout.watches) {
      const { owner, epoch } = state!;
      const isReachable = owner !== null && owner.address !== "" && (shard !== this.shard || this.accepts);
      this.#directory.set(shard, isReachable ? { shard, epoch, host: owner.address, port: 1 } : null, epoch);
    }
  }

  /** Other owners can connect to this one, and it connects to them. */
  #join({ core }: Host, epoch: number): void {
    const { turn, connections, foreignRequests: requests, neighbourEvents } = core;
    const { shardNetwork, engine } = this.#world;
    const { shard } = this;
    const admission = new Admission(connections, null, LOG);
    const identity = { secret: engine.secret, shard, epoch };
    const report = (error: unknown): void => this.#world.failed(error);
    const relayed = new RelayedConnections(admission, identity, false, () => null);
    this.#handlers = relayed.handlers(socketHandlers(() => turn.begin(), admission, report));
    this.links = new NeighbourLinks({
      connections,
      requests,
      others: neighbourEvents!,
      directory: this.#directory,
      secret: engine.secret,
      dial: shardNetwork.dialerOf(this),
      self: { shard, epoch },
      log: LOG,
    });
    this.host!.turn(() => this.links!.start());
    void this.#lookout.follow(this.#stopped);
  }

  /** A connection reaches one of its ports. */
  accept(link: Link): void {
    if (this.isPaused) this.backlog.push(link);
    else
      this.host!.turn(() => {
        if (link instanceof ShardLink) link.accepted(this.#handlers!);
        else this.host!.accept(link);
      });
  }

  /** An operator would read it. */
  #warned(what: string): void {
    if (!this.isDeposed) this.#world.failed(new Violation(`${this.name} warns: ${what}`));
  }

  /** The process ends with an error. */
  #fails(error: unknown): void {
    if (this.isDead) return;
    const isExpected = this.isDeposed && error instanceof ClusterError;
    if (!isExpected) this.#world.failed(error);
    this.exit();
  }

  readonly #end = ({ kind, message }: OwnershipEnd): void => {
    if (this.isDead) return;
    // A stale read cannot tell a deposed owner from an engine that has lost records.
    if (!this.isDeposed && !this.#stopped.aborted)
      this.#world.failed(new Violation(`${this.name} ${kind}: ${message}`));
    this.exit();
  };

  /** It ends at once; what its kernel has still arrives, or a part of it. */
  exit(): void {
    if (this.isDead) return;
    this.state = "over";
    this.#timers = [];
    this.#snapshots?.stop();
    void this.log.close();
    this.log.resume();
    this.ended();
    if (this.#disk !== null) this.#disk.isDead = true;
    this.host?.close();
    if (this.#folder !== "") rmSync(this.#folder, { recursive: true, force: true });
  }

  /** Closes its connections. */
  ended: () => void = () => {};

  /** Reads the log, and serves. The engine may fail in the middle of it: then a later call begins anew. */
  async takeOver(): Promise<void> {
    const { engine, random, nowMs, choices } = this.#world;
    const { epoch } = this.appender!;
    this.log.resume();
    this.log.isTakingOver = true;
    const folder = mkdtempSync(join(FOLDER, "heartline-simulation-"));
    try {
      const skewMs = this.#skewMs;
      const options = { unixMs: UNIX_MS + skewMs + nowMs, progress: () => {} };
      const taken = await takeOver(this.log, this.shard, epoch, folder, options);
      if (this.isDead) return taken.database.close();
      const { database } = taken;
      const journal = new SharedJournal(this.appender!, this.#nowMs, random.pick(SEGMENT_BYTES), random.between(1, 2));
      this.journal = journal;
      this.#folder = folder;
      this.#snapshots = new Snapshots({
        log: callsCounted(this.log, this.#waiting),
        shard: this.shard,
        epoch,
        journal: waitsCounted(journal, this.#waiting),
        database: withoutSize(database),
        filled: taken,
        published: () => {
          this.#world.snapshots++;
          this.hasPublished = true;
        },
        failed: () => {},
        logBytesMin: this.#world.snapshotBytes,
        copy: copyDatabase,
      });
      const disk = (this.#disk = new OwnerDisk(random, database, journal));
      const { shard } = this;
      const count = this.log.shards;
      const warn = (what: string): void => this.#warned(what);
      const shards = count === 1 ? null : { home: shard, count, warn };
      const owner = { Store: this.#storeClass(), dial: this.#world.dialerOf(this), clockMs: nowMs, shards, skewMs };
      this.host = new Host({ ...choices, ...owner }, this.#ledger, disk, (link) => {
        if (!this.isDeposed) this.#world.requeued(link);
      });
      this.state = "serving";
      if (shards !== null) this.#join(this.host, epoch);
    } catch (error) {
      if (this.isDead) return; // It has learned that it is deposed.
      if (error instanceof ClusterError || error instanceof Violation) this.#fails(error);
      else if (!/away|stale/.test(String(error))) this.#world.failed(error);
      this.isDeposed = engine.shards[this.shard]!.epoch !== epoch;
    } finally {
      this.log.isTakingOver = false;
      if (this.#folder !== folder) rmSync(folder, { recursive: true, force: true });
    }
  }

  /** A store that says when the output of a turn may leave. */
  #storeClass(): typeof ObservedStore {
    const process = this;
    return class extends ObservedStore {
      static override readonly power: boolean = true;

      constructor(database: Database, journal: TurnLog, checkpoints: Checkpoints, ledger: Ledger) {
        super(database, journal, checkpoints, ledger);
      }

      override save(): boolean | Promise<void> {
        if (process.isHalted || process.isDead) return new Promise(() => {});
        const saved = super.save();
        const { sequence } = process.journal!;
        process.#ledger.written(sequence);
        if (saved === true) process.#release(sequence);
        if (typeof saved === "boolean") return saved;
        return saved.then(() => process.#release(sequence));
      }
    };
  }

  readonly #waiting = (change: number): void => void (this.#waits += change);

  /** The clock has moved. */
  tick(): void {
    const { nowMs } = this.#world;
    const due = this.#timers.filter(({ atMs }) => atMs <= nowMs);
    this.#timers = this.#timers.filter(({ atMs }) => atMs > nowMs);
    for (const { resolve } of due) resolve();
    if (this.host !== null) this.host.jump(nowMs - this.host.clockMs);
  }

  /** Called about four times a second, like src/server/cluster-node.ts. */
  duty(): void {
    const { appender } = this;
    const { nowMs } = this.#world;
    if (appender === null || this.isHalted) return;
    if (isBeatDue(appender, nowMs)) void appender.beat();
    const snapshots = this.#snapshots;
    if (snapshots === null || this.#isCopying || this.state === "draining") return;
    this.#isCopying = true;
    snapshots.step(nowMs);
    void snapshots.exclusively(async () => {}).then(() => (this.#isCopying = false));
  }

  /** SIGTERM. */
  async drain(): Promise<void> {
    this.#stopped.aborted = true;
    const { host, appender } = this;
    if (this.state !== "serving" || host === null || appender === null) return this.exit();
    this.state = "draining";
    this.#snapshots?.stop();
    host.endingMs = host.clockMs;
    const ending = new Ending({
      core: host.core,
      store: host.store,
      sleep: this.#sleep,
      unlink: () => this.links?.stop(),
      halt: () => void (this.isHalted = true),
      release: () => this.#giveUp(host, appender),
    });
    try {
      await ending.run();
    } catch (error) {
      if (!this.isDeposed) this.#fails(error);
    }
    this.exit();
  }

  /** It releases the shard. */
  #giveUp({ chat }: Host, appender: Appender): Promise<boolean> {
    if (!this.isDeposed && !(this.#ledger.isRecorded && chat.presence.online.length === 0))
      this.#world.failed(new Violation(`${this.name} releases the shard before its last record`));
    const released = appender.beat({ ...this.#info, address: "" }).then(() => true);
    return Promise.race([released, this.#sleep(RELEASE_MS).then(() => false)]);
  }

  wake(): void {
    this.isPaused = false;
    this.log.resume();
    for (const link of this.backlog.splice(0)) this.accept(link);
  }

  /** After each step. */
  check(): void {
    if (this.isDeposed || this.isDead || this.appender === null) return;
    const { head } = this.appender;
    const world = this.#world;
    if (head < world.ackedHeads[this.shard]! || head > world.engine.shards[this.shard]!.head)
      throw new Violation(`record ${world.ackedHeads[this.shard]} was acknowledged, and ${this.name} has ${head}`);
    world.ackedHeads[this.shard] = head;
    const fault = LINK_FAULTS.find((reason) => this.links?.lost.get(reason) !== 0);
    if (this.links !== null && fault !== undefined) throw new Violation(`${this.name} has lost a link: ${fault}`);
    if (this.isRunning && this.state === "serving") this.host!.check();
  }

  /** Nothing is on its way to anybody. */
  get isQuiet(): boolean {
    return this.host!.isQuiet && (this.links === null || owesNothing(this.host!, this.links));
  }

  /** An internal error of its core. */
  get fault(): unknown {
    const fault = this.host?.fault;
    return this.isDeposed && fault instanceof Violation ? undefined : fault;
  }
}

/** A database that a takeover has filled. */
class OwnerDisk extends Disk {
  readonly #journal: TurnLog;

  constructor(random: Random, database: Database, journal: TurnLog) {
    super(random);
    super.close();
    this.database = database;
    this.#journal = journal;
  }

  override start(): { journal: TurnLog; records: number } {
    return { journal: this.#journal, records: 0 };
  }
}

function openedBy(bytes: Uint8Array): string | null {
  const record = decodeRecord(bytes);
  return record.kind === RecordKind.Opened ? openedInfo(record).address : null;
}

/** What a deposed owner does is no part of the history. */
function unlessDeposed(ledger: Ledger, process: { readonly isDeposed: boolean }): Ledger {
  return new Proxy(ledger, {
    get: (target, key) => {
      const value = Reflect.get(target, key) as unknown;
      if (typeof value !== "function") return value;
      if (!process.isDeposed || key === "blocks" || key === "hasNeighbours") return value.bind(target) as unknown;
      return () => {};
    },
  });
}
