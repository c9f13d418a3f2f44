/** The owners of all shards, as the shared log shows them, and who wants to know of a change. */
import type { Owner } from "./owner-link.ts";

interface Entry {
  /** Null while nobody owns the shard, or the last owner has released it. */
  owner: Owner | null;
  /** The highest epoch that was published. */
  epoch: number;
}

export class Directory {
  readonly shards: number;
  /** The shard that this process owns; null for a spare. */
  home: number | null = null;
  /** Called with a shard when it has another owner or epoch. */
  readonly changed = new Set<(shard: number) => void>();
  readonly #entries: Entry[];

  constructor(shards: number) {
    this.shards = shards;
    this.#entries = Array.from({ length: shards }, () => ({ owner: null, epoch: 0 }));
  }

  /** All shards but that one; all for null. */
  except(shard: number | null): number[] {
    return [...this.#entries.keys()].filter((each) => each !== shard);
  }

  /** Where other servers reach the owner of that shard; null when there is none. A silent one may be dead. */
  ownerOf(shard: number): Owner | null {
    return this.#entries[shard]!.owner;
  }

  /** The highest epoch of that shard that was published; 0 before the first one. */
  epochOf(shard: number): number {
    return this.#entries[shard]!.epoch;
  }

  /** The shared log shows this owner, or none. An older state than one before changes nothing. */
  set(shard: number, owner: Owner | null, epoch: number): void {
    const entry = this.#entries[shard]!;
    if (epoch < entry.epoch || (epoch === entry.epoch && isSame(owner, entry.owner))) return;
    entry.owner = owner;
    entry.epoch = epoch;
    for (const changed of this.changed) changed(shard);
  }
}

function isSame(a: Owner | null, b: Owner | null): boolean {
  return a === b || (a?.host === b?.host && a?.port === b?.port && a?.epoch === b?.epoch);
}
