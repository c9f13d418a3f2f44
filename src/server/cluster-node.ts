/**
 * One process of a cluster: a spare that watches the owner of the shard, and then the owner. It connects the shared log
 * with the server: when to claim, what to log, when to end. The rules of the log are in src/cluster/.
 */
import { version } from "../../package.json";
import { type Credentials, CredentialsError } from "../auth/credentials.ts";
import { fingerprintOf } from "../auth/fingerprint.ts";
import { Appender, type OwnershipEnd } from "../cluster/appender.ts";
import { openLog } from "../cluster/open-log.ts";
import { SHARD, SILENCE_MS, checkShards, isBeatDue, isEngineAway, standBy } from "../cluster/ownership.ts";
import { ClusterError, type OpenLog, type OwnerInfo, type ShardState, type SharedLog } from "../cluster/shared-log.ts";
import { ShardBackup } from "../cluster/shard-backup.ts";
import { SharedJournal } from "../cluster/shared-journal.ts";
import { Snapshots } from "../cluster/snapshots.ts";
import { type TakenOver, checkLastRecord, takeOver } from "../cluster/takeover.ts";
import type { Admission } from "../net/admission.ts";
import type { ClusterTls, Owner } from "../net/owner-link.ts";
import type { ServerHandlers } from "../net/socket-handlers.ts";
import type { Logger } from "../runtime/log.ts";
import { DataFolder } from "../storage/data-folder.ts";
import { StoreError } from "../storage/database.ts";
import { Store } from "../storage/store.ts";
import { ClusterPort } from "./cluster-port.ts";
import type { ClusterConfig } from "./config.ts";
import { OPTIONS } from "./options.ts";
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
  readCredentials: () => Credentials;
  /** The ownership is over: nothing may leave this process from now on, and it must exit. */
  ended: (event: "deposed" | "cluster_error", message: string) => void;
}

export class ClusterNode implements Ownership {
  readonly engine: string;
  readonly #sharedLog: SharedLog;
  readonly #port: ClusterPort;
  /** Receives the owner to which clients can be relayed, or null, and the newest epoch. */
  ownerSeen: (owner: Owner | null, epoch: number) => void = () => {};
  readonly #folder: WorkingFolder;
  readonly #options: ClusterNodeOptions;
  /** Those that the server uses, or will use, and their fingerprint; see `OwnerInfo`. */
  #credentials: Credentials;
  #fingerprint: string;
  /** Null for a spare. */
  #appender: Appender | null = null;
  /** Null until the owner has read everything. */
  #snapshots: Snapshots | null = null;
  #backup: ShardBackup | null = null;
  #store: Store | null = null;
  /** What a spare has read last, and when it last showed a change. */
  #seen: ShardState | null = null;
  #changedMs = performance.now();
  #isCompared = false;
  readonly #stopped = { aborted: false };
  #duties: Timer | null = null;

  private constructor(
    sharedLog: SharedLog,
    port: ClusterPort,
    folder: WorkingFolder,
    fingerprint: string,
    options: ClusterNodeOptions,
  ) {
    this.engine = sharedLog.engine;
    this.#sharedLog = sharedLog;
    this.#port = port;
    this.#folder = folder;
    this.#credentials = options.credentials;
    this.#fingerprint = fingerprint;
    this.#options = options;
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
    checkShards(sharedLog);
    try {
      await checkLastRecord(sharedLog, SHARD, await sharedLog.state(SHARD));
    } catch (error) {
      if (error instanceof ClusterError) throw error; // Otherwise the engine may come back: that is logged.
    }
    return new ClusterNode(sharedLog, port, new WorkingFolder(folder), fingerprint, options);
  }

  /**
   * Waits as a spare until this process owns the shard, and returns its store and the credentials to use. `progress`
   * receives the part of the takeover that is done, from 0 to 1. Null after `release`. Rejects with ClusterError,
   * StoreError.
   */
  async own(progress: (part: number) => void): Promise<{ store: Store; credentials: Credentials } | null> {
    const { log, readiness } = this.#options;
    readiness.enter("spare");
    const { address } = this.#port;
    log.info(
      { event: "spare", address, engine: this.engine },
      "spare: takes over when the owner of the shard is silent",
    );
    const claim = async (state: ShardState): Promise<Appender | null> => {
      await checkLastRecord(this.#sharedLog, SHARD, state);
      await this.#readCredentials();
      const appender = new Appender({ log: this.#sharedLog, shard: SHARD, ended: this.#end });
      return (await appender.claim(state.head, this.#info)) ? appender : null;
    };
    const events = {
      state: (state: ShardState) => this.#noteState(state),
      engineAway: (error: unknown) => this.#engineAway(error),
      engineBack: () => this.#engineBack(),
      owner: (owner: OwnerInfo) => this.#compare(owner),
    };
    const appender = await standBy(this.#sharedLog, SHARD, claim, events, this.#stopped);
    if (appender === null) return null;
    this.#appender = appender;
    this.ownerSeen(null, appender.epoch);
    this.#duties = setInterval(() => this.#duty(appender), DUTY_MS);
    readiness.enter("recovering");
    const store = await this.#takeOver(appender, progress);
    return { store, credentials: this.#credentials };
  }

  async #takeOver(appender: Appender, progress: (part: number) => void): Promise<Store> {
    const { log } = this.#options;
    const { epoch } = appender;
    const beganMs = performance.now();
    const { taken, path } = await this.#read(epoch, progress);
    const data = new DataFolder(path);
    data.watch(null);
    const ms = Math.round(performance.now() - beganMs);
    const { records, messages } = taken.recovered;
    log.info(
      { event: "claimed", epoch, ms, snapshot: taken.snapshot, records, messages },
      `this server owns the shard from record ${epoch} on; it has read ${records} records in ${ms} ms`,
    );
    const journal = new SharedJournal(appender);
    const { database } = taken;
    this.#snapshots = new Snapshots({
      log: this.#sharedLog,
      shard: SHARD,
      epoch,
      journal,
      database,
      filled: taken,
      published: ({ sequence, bytes, logBytes }) =>
        log.info(
          { event: "snapshot", sequence, bytes, log_bytes: logBytes },
          `a snapshot of ${bytes} bytes replaces the records up to ${sequence} of the shared log`,
        ),
      failed: ({ message }) =>
        log.error({ event: "snapshot_failed" }, `no snapshot: ${message}; the shared log grows until one succeeds`),
    });
    const acknowledged = (): number => appender.head;
    this.#backup = new ShardBackup(this.#sharedLog, SHARD, this.#snapshots, database.filename, acknowledged);
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

  /** Snapshots that this process has published. */
  get snapshots(): number {
    return this.#snapshots?.count ?? 0;
  }

  /** Reads the shared log into a new folder, again after an error of the engine, until that succeeds. */
  async #read(epoch: number, progress: (part: number) => void): Promise<{ taken: TakenOver; path: string }> {
    for (;;) {
      const path = this.#folder.make();
      try {
        const taken = await takeOver(this.#sharedLog, SHARD, epoch, path, { unixMs: Date.now(), progress });
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
  async #compare({ address, credentials }: OwnerInfo): Promise<void> {
    const isFirst = !this.#isCompared;
    this.#isCompared = true;
    if (credentials !== this.#fingerprint) await this.#readCredentials(); // The file may have changed meanwhile.
    if (credentials === this.#fingerprint) return;
    const what = `the owner ${address} has other users or passwords than this server`;
    const advice = "give all servers of the cluster the same credentials file";
    if (isFirst) throw new ClusterError(`${what}; ${advice}`);
    this.#options.log.warn({ event: "config_warning" }, `${what}; ${advice}, or it changes them at a takeover`);
  }

  /** The file may have changed since the start of this spare. With an error the credentials stay. */
  async #readCredentials(): Promise<void> {
    try {
      await this.useCredentials(this.#options.readCredentials());
    } catch (error) {
      if (!(error instanceof CredentialsError)) throw error;
      this.#options.log.error({ event: "reload" }, `${error.message}; the users stay as they were`);
    }
  }

  /** The server uses these credentials from now on. */
  async useCredentials(credentials: Credentials): Promise<void> {
    const isSame = JSON.stringify(credentials) === JSON.stringify(this.#credentials);
    this.#credentials = credentials;
    if (isSame) return; // The fingerprint takes a while, and a takeover waits for it.
    const fingerprint = await fingerprintOf(credentials.users);
    if (this.#credentials !== credentials) return; // There are newer ones.
    this.#fingerprint = fingerprint;
    void this.#appender?.beat(this.#info);
  }

  /**
   * When a beat is due, it is sent, and the engine must still have all records. The log says once that the engine is
   * away, and that it is back.
   */
  #duty(appender: Appender): void {
    const nowMs = performance.now();
    if (isBeatDue(appender, nowMs)) void appender.beat().then(() => appender.check());
    this.#snapshots?.step(nowMs);
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

  readonly #end = ({ kind, message }: OwnershipEnd): void => {
    clearInterval(this.#duties!);
    this.#snapshots?.stop();
    this.#options.ended(kind === "deposed" ? "deposed" : "cluster_error", message);
  };

  #noteState(state: ShardState): void {
    const { head, epoch, beat } = this.#seen ?? {};
    if (state.head !== head || state.epoch !== epoch || state.beat !== beat) this.#changedMs = performance.now();
    this.#seen = state;
    const owner = ownerOf(state);
    this.#options.readiness.hasOwner = owner !== null && this.silentMs < SILENCE_MS;
    this.ownerSeen(owner, state.epoch);
  }

  serveGateways(admission: Admission, handlers: ServerHandlers): void {
    this.#port.serve({ secret: this.#sharedLog.secret, shard: SHARD, epoch: this.epoch }, admission, handlers);
  }

  closePort(): void {
    this.#port.stop();
  }

  /** What a gateway needs to connect to the owner. */
  get access(): { secret: Uint8Array; tls: ClusterTls | null } {
    return { secret: this.#sharedLog.secret, tls: this.#port.tls };
  }

  /**
   * Gives the shard up, so that another process claims it at once; everything that this one has acknowledged is stored.
   * A spare only stops watching. False when the engine does not answer in time.
   */
  async release(): Promise<boolean> {
    this.#stopped.aborted = true;
    this.#snapshots?.stop();
    const appender = this.#appender;
    if (appender === null) return true;
    clearInterval(this.#duties!);
    const released = appender
      .check()
      .then(() => appender.beat({ ...this.#info, address: "" }))
      .then(() => true);
    const isReleased = await Promise.race([released, Bun.sleep(RELEASE_MS).then(() => false)]);
    const { log } = this.#options;
    if (isReleased) log.info({ event: "released", epoch: appender.epoch }, "the shard is released for another server");
    return isReleased;
  }

  /** Removes the working copy, before the process exits. */
  removeFiles(): void {
    this.#folder.remove();
  }

  /** Lines of the admin command `cluster`. */
  lines(): string[] {
    const { role, epoch, head } = this;
    const seen = this.#seen;
    const owner = role === "owner" ? this.#info : seen?.owner?.address ? seen.owner : null;
    const snapshot = this.#snapshots?.sequence ?? seen?.snapshot ?? 0;
    return [
      `engine ${this.engine}`,
      `node ${role} ${this.#port.address} ${version} ${Math.round(this.silentMs)}`,
      `shard ${SHARD} ${owner?.address ?? "-"} ${owner?.version ?? "-"} ${epoch} ${head} ${snapshot}`,
    ];
  }

  get role(): "owner" | "spare" {
    return this.#appender === null ? "spare" : "owner";
  }

  get epoch(): number {
    return this.#appender?.epoch ?? this.#seen?.epoch ?? 0;
  }

  get head(): number {
    return this.#appender?.head ?? this.#seen?.head ?? 0;
  }

  /** Bytes of entries that wait for the next record. */
  get waitingBytes(): number {
    return this.#store?.waitingBytes ?? 0;
  }

  /** Owner: since the last write began that proves the ownership. Spare: since the owner's last sign of life. */
  get silentMs(): number {
    return performance.now() - (this.#appender?.provenMs ?? this.#changedMs);
  }
}

function ownerOf({ owner, epoch }: ShardState): Owner | null {
  if (owner === null || owner.address === "") return null;
  return { ...OPTIONS["cluster-listen"].read(owner.address), shard: SHARD, epoch };
}
