/**
 * What a server of a cluster knows of all shards, for those who connect to their owners, for `/readyz`, `ctl cluster`,
 * the metrics and the log. It reads nothing itself: `Lookout` reads the shared log.
 */
import { version } from "../../package.json";
import type { Appender } from "../cluster/appender.ts";
import { type Lookout, SILENCE_MS, type Watch, isFree } from "../cluster/ownership.ts";
import type { OwnerInfo, ShardState } from "../cluster/shared-log.ts";
import type { Snapshots } from "../cluster/snapshots.ts";
import type { Directory } from "../net/directory.ts";
import type { Owner } from "../net/owner-link.ts";
import { KnownSpares, type Spare } from "../net/spares.ts";
import type { Logger } from "../runtime/log.ts";
import { OPTIONS } from "./options.ts";
import type { Readiness } from "./readiness.ts";

/** A shard that has had no living owner for this long is reported. */
const OWNERLESS_MS = 10_000;

export interface ShardView {
  shard: number;
  /** This server owns it. */
  isHome: boolean;
  /** Null while nobody does. */
  owner: OwnerInfo | null;
  epoch: number;
  head: number;
  snapshot: number;
  /** Home: since the last write began that proves the ownership. Others: since the owner's last sign of life. */
  silentMs: number;
}

export class ClusterView {
  readonly directory: Directory;
  readonly knownSpares = new KnownSpares();
  /** Of the shard that this server owns; null for a spare. */
  appender: Appender | null = null;
  snapshots: Snapshots | null = null;
  /** Other servers can connect to this one, as the owner. */
  isServing = false;
  readonly #log: Logger;
  readonly #readiness: Readiness;
  /** Shards without a living owner that were reported. */
  readonly #ownerless = new Set<number>();

  constructor(directory: Directory, log: Logger, readiness: Readiness) {
    this.directory = directory;
    this.#log = log;
    this.#readiness = readiness;
  }

  /** The states of all shards were read. */
  note({ watches }: Lookout): void {
    const nowMs = performance.now();
    let hasOwner = false;
    for (const watch of watches) {
      const { shard, sinceMs } = watch;
      const state = watch.state!;
      const isHome = shard === this.appender?.shard;
      const isReachable = !isHome || this.isServing;
      this.directory.set(shard, isReachable ? ownerOf(shard, state) : null, state.epoch);
      const isLiving = isHome || (!isFree(state) && nowMs - sinceMs < SILENCE_MS);
      hasOwner ||= isLiving;
      this.#report(watch, isLiving, nowMs - sinceMs);
    }
    this.#readiness.hasOwner = hasOwner;
  }

  /** The log says once that a shard has no living owner, and that it has one again. */
  #report({ shard, state }: Watch, isLiving: boolean, silentMs: number): void {
    if (!isLiving && silentMs >= OWNERLESS_MS && !this.#ownerless.has(shard)) {
      this.#ownerless.add(shard);
      const text = `nobody owns shard ${shard}: its users cannot log in; start another server`;
      this.#log.error({ event: "no_owner", shard }, text);
    } else if (isLiving && this.#ownerless.delete(shard)) {
      const { address } = state!.owner!;
      this.#log.info({ event: "owner", shard, address }, `${address} owns shard ${shard}`);
    }
  }

  /** By shard; empty before the states were read. */
  rows({ watches }: Lookout): ShardView[] {
    const nowMs = performance.now();
    return watches.flatMap(({ shard, state, sinceMs }) => {
      if (state === null) return [];
      const appender = this.appender?.shard === shard ? this.appender : null;
      const { epoch, head } = appender ?? state;
      const owner = appender?.info ?? (isFree(state) ? null : state.owner);
      const snapshot = (appender && this.snapshots?.sequence) ?? state.snapshot;
      const silentMs = nowMs - (appender?.provenMs ?? sinceMs);
      return [{ shard, isHome: appender !== null, owner, epoch, head, snapshot, silentMs }];
    });
  }

  /** The known spares that have not become owners since. */
  spares(lookout: Lookout): Spare[] {
    const owners = new Set(this.rows(lookout).map(({ owner }) => owner?.address));
    return this.knownSpares.all.filter(({ address }) => !owners.has(address));
  }

  /** Lines of the admin command `cluster`: docs/operating.md, Administration. */
  lines(lookout: Lookout, engine: string, address: string): string[] {
    const ms = (time: number): string => String(Math.round(time));
    const { appender } = this;
    const heardMs = performance.now() - (appender?.provenMs ?? lookout.readMs);
    const role = appender === null ? "spare" : "owner";
    const rows = this.rows(lookout).map(({ shard, owner, epoch, head, snapshot, silentMs }) => {
      const who = `${owner?.address ?? "-"} ${owner?.version ?? "-"}`;
      return `shard ${shard} ${who} ${epoch} ${head} ${snapshot} ${ms(silentMs)}`;
    });
    const nowMs = this.knownSpares.nowMs();
    const spares = this.spares(lookout).map(
      ({ address, version, heardMs }) => `spare ${address} ${version} ${ms(nowMs - heardMs)}`,
    );
    const node = `node ${role} ${address} ${version} ${ms(heardMs)} ${appender?.shard ?? "-"}`;
    return [`engine ${engine}`, node, ...rows, ...spares];
  }
}

function ownerOf(shard: number, state: ShardState): Owner | null {
  if (isFree(state)) return null;
  return { ...OPTIONS["cluster-listen"].read(state.owner!.address), shard, epoch: state.epoch };
}
