/**
 * One process of a cluster: a spare that watches the owners of all shards, and then the owner of one. It connects the
 * shared log with the server: when to claim, what to log, when to end. The rules of the log are in src/cluster/.
 */
import { version } from "../../package.json";
import { type Credentials, CredentialsError, haveSameUsers } from "../auth/credentials.ts";
import { fingerprintOf } from "../auth/fingerprint.ts";
import { Appender, type OwnershipEnd } from "../cluster/appender.ts";
import { openLog } from "../cluster/open-log.ts";
import { Lookout, isBeatDue, isEngineAway } from "../cluster/ownership.ts";
import { ClusterError, type OpenLog, type OwnerInfo, type ShardState, type SharedLog } from "../cluster/shared-log.ts";
import { ShardBackup } from "../cluster/shard-backup.ts";
import { SharedJournal } from "../cluster/shared-journal.ts";
import { Snapshots } from "../cluster/snapshots.ts";
import { type TakenOver, checkLastRecord, takeOver } from "../cluster/takeover.ts";
import { ShardAdmin } from "../admin/shard-admin.ts";
import type { Admission } from "../net/admission.ts";
import type { AcceptedSocket } from "../net/tcp-transport.ts";
import type { SocketEvents } from "../net/transport.ts";
import { Directory } from "../net/directory.ts";
import { NeighbourLinks } from "../net/neighbour-links.ts";
import { dialOwner } from "../net/owner-link.ts";
import type { RelayedConnections } from "../net/relayed-connections.ts";
import { RelayCounts } from "../net/relay.ts";
import { Relays } from "../net/relays.ts";
import { SpareLinks, type SpareLinksOptions } from "../net/spare-links.ts";
import { SpareConnection } from "../net/spares.ts";
import type { ServerHandlers } from "../net/socket-handlers.ts";
import type { Logger } from "../runtime/log.ts";
import { DataFolder } from "../storage/data-folder.ts";
import { StoreError } from "../storage/database.ts";
import { Store } from "../storage/store.ts";
import { ClusterPort } from "./cluster-port.ts";
import { ClusterView, type ShardView } from "./cluster-view.ts";
import type { ClusterConfig } from "./config.ts";
import type { Core } from "./core.ts";
import type { Ownership } from "./ownership.ts";
import type { Readiness } from "./readiness.ts";
import { WorkingFolder } from "./working-folder.ts";

/** Interval at which an owner looks whether a beat is due, and whether the engine answers. */
const DUTY_MS = 250;
/** A release that takes longer is given up: the next owner waits until this one is silent. */
const RELEASE_MS = 2_000;
export interface ClusterNodeOptions {
  log: Logger;
  readiness: Readiness;
  credentials: Credentials;
  /** Reads the credentials file again. Throws CredentialsError. */
  readCredentials: (known: Credentials) => Promise<Credentials>;
  /** The ownership is over: nothing may leave this process from now on, and it must exit. */
  ended: (end: OwnershipEnd) => void;
}

export class ClusterNode implements Ownership {
  readonly directory: Directory;
  readonly relayCounts = new RelayCounts();
  readonly #sharedLog: SharedLog;
  readonly #port: ClusterPort;
  readonly #folder: WorkingFolder;
  readonly #options: ClusterNodeOptions;
  readonly #view: ClusterView;
  readonly #lookout: Lookout;
  /** Those that the server uses, or will use, and their fingerprint; see `OwnerInfo`. */
  #credentials: Credentials;
  #fingerprint: string;
  #backup: ShardBackup | null = null;
  #store: Store | null = null;
  #isCompared = false;
  /** Serves the connection of another server with a command of its operator; null when it is closed. */
  administer: (socket: AcceptedSocket) => SocketEvents | null = () => null;
  readonly #stopped = { aborted: false };
  #duties: Timer | null = null;

  private constructor(
    sharedLog: SharedLog,
    port: ClusterPort,
    folder: WorkingFolder,
    fingerprint: string,
    options: ClusterNodeOptions,
  ) {
    this.directory = new Directory(sharedLog.shards);
    this.#sharedLog = sharedLog;
    this.#port = port;
    this.#folder = folder;
    this.#credentials = options.credentials;
    this.#fingerprint = fingerprint;
    this.#options = options;
    this.#view = new ClusterView(this.directory, options.log, options.readiness);
    this.#lookout = new Lookout(sharedLog, {
      read: () => this.#view.note(this.#lookout),
      engineAway: (error) => this.#engineAway(error),
      engineBack: () => this.#engineBack(),
      owner: (owner, shard) => this.#compare(owner, shard),
    });
  }

  /** Connects to the engine. Throws ClusterError, ListenError, StoreError. */
  static async open(
    { url, listen, tls, folder }: ClusterConfig,
    options: ClusterNodeOptions,
    open: OpenLog = openLog,
  ): Promise<ClusterNode> {
    const fingerprint = await fingerprintOf(options.credentials.users);
    const port = new ClusterPort({ listen, tls });
    if (port.outdated !== null)
      options.log.warn({ event: "config_warning" }, `${port.outdated}: other servers will not trust it; renew it`);
    const sharedLog = await open(url);
    for (const warning of sharedLog.warnings) options.log.warn({ event: "config_warning" }, warning);
    try {
      for (const [shard, state] of (await sharedLog.states()).entries()) await checkLastRecord(sharedLog, shard, state);
    } catch (error) {
      if (error instanceof ClusterError) throw error; // Otherwise the engine may come back: that is logged.
    }
    return new ClusterNode(sharedLog, port, new WorkingFolder(folder), fingerprint, options);
  }

  /**
   * Waits as a spare until this process owns a shard, and returns its store and the credentials to use. `progress`
   * receives the part of the takeover that is done, from 0 to 1. Null after `release`. Rejects with ClusterError,
   * StoreError.
   */
  async own(progress: (part: number) => void): Promise<{ store: Store; credentials: Credentials } | null> {
    const { log, readiness } = this.#options;
    readiness.enter("spare");
    const { address } = this.#port;
    const { shards } = this.directory;
    log.info(
      { event: "spare", address, engine: this.engine, shards },
      shards === 1
        ? "spare: takes over when the owner of the shard is silent"
        : `spare: takes over one of ${shards} shards, the first that is free or whose owner is silent`,
    );
    const claim = async (shard: number, state: ShardState): Promise<Appender | null> => {
      await checkLastRecord(this.#sharedLog, shard, state);
      await this.#readCredentials();
      const appender = new Appender({ log: this.#sharedLog, shard, ended: this.#end });
      return (await appender.claim(state.head, this.#info)) ? appender : null;
    };
    const links = new SpareLinks({ ...this.#dialing(), spares: this.#view.knownSpares, self: this.#info });
    links.start();
    const appender = await this.#lookout.standBy(claim, this.#stopped).finally(() => links.stop());
    if (appender === null) return null;
    this.#view.appender = appender;
    this.directory.home = appender.shard;
    this.directory.set(appender.shard, null, appender.epoch);
    void this.#lookout.follow(this.#stopped);
    this.#duties = setInterval(() => this.#duty(appender), DUTY_MS);
    readiness.enter("recovering");
    try {
      return { store: await this.#takeOver(appender, progress), credentials: this.#credentials };
    } catch (error) {
      if (error instanceof StoreError) await this.release(); // Another server may have a better disk.
      throw error;
    }
  }

  async #takeOver(appender: Appender, progress: (part: number) => void): Promise<Store> {
    const { log } = this.#options;
    const { epoch, shard } = appender;
    const beganMs = performance.now();
    const { taken, path } = await this.#read(appender, progress);
    const data = new DataFolder(path);
    data.watch(null);
    const ms = Math.round(performance.now() - beganMs);
    const { records, messages } = taken.recovered;
    log.info(
      { event: "claimed", shard, epoch, ms, snapshot: taken.snapshot, records, messages },
      `this server owns shard ${shard} from record ${epoch} on; it has read ${records} records in ${ms} ms`,
    );
    const journal = new SharedJournal(appender);
    const { database } = taken;
    this.#view.snapshots = new Snapshots({
      log: this.#sharedLog,
      shard,
      epoch,
      journal,
      database,
      filled: taken,
      published: ({ sequence, bytes, logBytes }) =>
        log.info(
          { event: "snapshot", shard, sequence, bytes, log_bytes: logBytes },
          `a snapshot of ${bytes} bytes replaces the records up to ${sequence} of the shared log`,
        ),
      failed: ({ message }) =>
        log.error(
          { event: "snapshot_failed", shard },
          `no snapshot: ${message}; the shared log grows until one succeeds`,
        ),
    });
    const acknowledged = (): number => appender.head;
    this.#backup = new ShardBackup(this.#sharedLog, shard, this.#view.snapshots, database.filename, acknowledged);
    this.#store = new Store(database, journal, true, undefined, data);
    return this.#store;
  }

  /** Makes the new folder of that path, from the shared log. Rejects with StoreError. */
  async backup(path: string): Promise<void> {
    await this.#backup!.run(path);
  }

  /** A running backup ends without a result. */
  async stopBackup(): Promise<void> {
    await this.#backup?.stop();
  }

  /** Of the shard that this process owns; null for a spare. */
  get snapshots(): Snapshots | null {
    return this.#view.snapshots;
  }

  /** Reads the shared log into a new folder, again after an error of the engine, until that succeeds. */
  async #read(
    { shard, epoch }: Appender,
    progress: (part: number) => void,
  ): Promise<{ taken: TakenOver; path: string }> {
    for (;;) {
      const path = this.#folder.make();
      try {
        const taken = await takeOver(this.#sharedLog, shard, epoch, path, { unixMs: Date.now(), progress });
        this.#engineBack();
        return { taken, path };
      } catch (error) {
        if (error instanceof ClusterError || error instanceof StoreError) throw error;
        this.#engineAway(error);
        await Bun.sleep(DUTY_MS);
      }
    }
  }

  /** What the other processes see of this one. */
  get #info(): OwnerInfo {
    return { address: this.#port.address, version, credentials: this.#fingerprint };
  }

  /** The first living owner must have the same users; later differences, after a reload, are only logged. */
  async #compare({ address, credentials }: OwnerInfo, shard: number): Promise<void> {
    const isFirst = !this.#isCompared;
    this.#isCompared = true;
    if (credentials !== this.#fingerprint) await this.#readCredentials(); // The file may have changed meanwhile.
    if (credentials === this.#fingerprint) return;
    const what = `the owner of shard ${shard} (${address}) has other users or passwords than this server`;
    const advice = "give all servers of the cluster the same credentials file";
    if (isFirst) throw new ClusterError(`${what}; ${advice}`);
    this.#options.log.warn({ event: "config_warning" }, `${what}; ${advice}, or it changes them at a takeover`);
  }

  /** The file may have changed since the start of this spare. With an error the credentials stay. */
  async #readCredentials(): Promise<void> {
    try {
      await this.useCredentials(await this.#options.readCredentials(this.#credentials));
    } catch (error) {
      if (!(error instanceof CredentialsError)) throw error;
      this.#options.log.error({ event: "reload" }, `${error.message}; the users stay as they were`);
    }
  }

  /** The server uses these credentials from now on. */
  async useCredentials(credentials: Credentials): Promise<void> {
    const isSame = haveSameUsers(credentials, this.#credentials);
    this.#credentials = credentials;
    if (isSame) return; // The fingerprint takes a while, and a takeover waits for it.
    const fingerprint = await fingerprintOf(credentials.users);
    if (this.#credentials !== credentials) return; // There are newer ones.
    this.#fingerprint = fingerprint;
    void this.#view.appender?.beat(this.#info);
  }

  /**
   * When a beat is due, it is sent, and the engine must still have all records. The log says once that the engine is
   * away, and that it is back.
   */
  #duty(appender: Appender): void {
    const nowMs = performance.now();
    if (isBeatDue(appender, nowMs)) void appender.beat().then(() => appender.check());
    this.#view.snapshots?.step(nowMs);
    if (this.#store === null) return; // The takeover reports what the engine does.
    if (isEngineAway(appender, nowMs)) this.#engineAway(appender.error);
    else this.#engineBack();
  }

  #engineAway(error: unknown): void {
    const { log, readiness } = this.#options;
    if (readiness.engineAway !== null) return;
    readiness.engineAway = this.engine;
    const why = error === null ? "it gives no answer" : (error as Error).message;
    log.error(
      { event: "engine_away", engine: this.engine },
      `the shared log does not answer: ${why}; no request gets its ok until it does`,
    );
  }

  #engineBack(): void {
    const { log, readiness } = this.#options;
    if (readiness.engineAway === null) return;
    readiness.engineAway = null;
    log.info({ event: "engine_back", engine: this.engine }, "the shared log answers again");
  }

  readonly #end = (end: OwnershipEnd): void => {
    clearInterval(this.#duties!);
    this.#view.snapshots?.stop();
    this.#options.ended(end);
  };

  serveGateways(admission: Admission, handlers: ServerHandlers): void {
    const { shard, epoch } = this.#view.appender!;
    const accept: RelayedConnections["accept"] = (purpose, socket) =>
      purpose === "spare" ? new SpareConnection(socket, this.#view.knownSpares) : this.administer(socket);
    this.#port.serve({ secret: this.#sharedLog.secret, shard, epoch }, admission, handlers, accept);
    this.#view.isServing = true;
  }

  closePort(): void {
    this.#port.stop();
  }

  newRelays({ chat, turn }: Pick<Core, "chat" | "turn">, home: number | null): Relays {
    return new Relays({ ...this.#dialing(() => turn.begin()), chat, home, counts: this.relayCounts });
  }

  /** For commands that concern other shards. */
  newShardAdmin(): ShardAdmin {
    const { directory, secret, dial } = this.#dialing();
    return new ShardAdmin(directory, secret, dial);
  }

  newLinks({ connections, foreignRequests: requests, neighbourEvents, turn }: Core): NeighbourLinks {
    const { shard, epoch } = this.#view.appender!;
    const others = neighbourEvents!;
    const dialing = this.#dialing(() => turn.begin());
    return new NeighbourLinks({ ...dialing, connections, requests, others, self: { shard, epoch } });
  }

  /** What all connections to owners need. `beginTurn` is called before each event of one. */
  #dialing(beginTurn = (): void => {}): Pick<SpareLinksOptions, "directory" | "secret" | "dial" | "log"> {
    const { log } = this.#options;
    const dial = dialOwner(this.#port.tls, beginTurn);
    return { directory: this.directory, secret: this.#sharedLog.secret, dial, log };
  }

  get shard(): number {
    return this.#view.appender!.shard;
  }

  get shardCount(): number {
    return this.directory.shards;
  }

  /**
   * Gives the shard up, so that another process claims it at once; everything that this one has acknowledged is stored.
   * A spare only stops watching. False when the engine does not answer in time.
   */
  async release(): Promise<boolean> {
    this.#stopped.aborted = true;
    this.#view.snapshots?.stop();
    const appender = this.#view.appender;
    if (appender === null) return true;
    clearInterval(this.#duties!);
    const released = appender
      .check()
      .then(() => appender.beat({ ...this.#info, address: "" }))
      .then(() => true);
    const isReleased = await Promise.race([released, Bun.sleep(RELEASE_MS).then(() => false)]);
    const { log } = this.#options;
    const { shard, epoch } = appender;
    if (isReleased) log.info({ event: "released", shard, epoch }, `shard ${shard} is released for another server`);
    return isReleased;
  }

  /** Removes the working copy, before the process exits. */
  removeFiles(): void {
    this.#folder.remove();
  }

  /** Lines of the admin command `cluster`. */
  lines(): string[] {
    return this.#view.lines(this.#lookout, this.engine, this.#port.address);
  }

  get engine(): string {
    return this.#sharedLog.engine;
  }

  /** What this process knows of each shard; nothing before it has read the states. */
  get shards(): ShardView[] {
    return this.#view.rows(this.#lookout);
  }

  /** Spares that are alive, this process included. */
  get livingSpares(): number {
    return this.#view.spares(this.#lookout).filter((spare) => this.#view.knownSpares.isAlive(spare)).length;
  }

  /** Bytes of entries that wait for the next record. */
  get waitingBytes(): number {
    return this.#store?.waitingBytes ?? 0;
  }
}
