/** Shards of a cluster in one process: real servers and real sockets, each shard with a store in memory. */
import { Directory } from "../../src/net/directory.ts";
import { NeighbourLinks } from "../../src/net/neighbour-links.ts";
import { type Owner, dialOwner } from "../../src/net/owner-link.ts";
import { RelayCounts } from "../../src/net/relay.ts";
import { Relays } from "../../src/net/relays.ts";
import type { BoundedLog } from "../../src/server/bounded-log.ts";
import { ClusterPort } from "../../src/server/cluster-port.ts";
import type { ClusterTlsConfig, WebConfig } from "../../src/server/config.ts";
import type { Core } from "../../src/server/core.ts";
import type { Ownership } from "../../src/server/ownership.ts";
import { SECRET } from "./gateway.ts";
import { NAMES, WireServer } from "./wire.ts";

export interface WireShardChoices {
  epoch?: number;
  secret?: Buffer;
  tls?: ClusterTlsConfig | null;
  web?: WebConfig | null;
}

export const SHARDS = 2;

/** The owner of one shard. */
export class WireShard {
  readonly wire: WireServer;
  readonly owner: Owner;
  /** What it knows of the owners. */
  readonly directory = new Directory(SHARDS);

  /** It becomes one of `all`, whose shards know each other. */
  constructor(
    all: WireShard[],
    shard: number,
    { epoch = 1, secret = SECRET, tls = null, web = null }: WireShardChoices = {},
    names: readonly string[] = NAMES,
  ) {
    const { directory } = this;
    directory.home = shard;
    const cluster = new ClusterPort({ listen: { host: "127.0.0.1", port: 0 }, tls });
    const newOwnership = (log: BoundedLog): Ownership => ({
      shard,
      shardCount: directory.shards,
      newRelays: ({ chat, turn }, home) => {
        const dial = dialOwner(cluster.tls, () => turn.begin());
        return new Relays({ chat, home, directory, secret, dial, counts: new RelayCounts(), log });
      },
      newLinks: ({ connections, foreignRequests: requests, neighbourEvents, turn }: Core) => {
        const dial = dialOwner(cluster.tls, () => turn.begin());
        const self = { shard, epoch };
        const others = neighbourEvents!;
        return new NeighbourLinks({ connections, requests, others, directory, secret, dial, self, log });
      },
      serveGateways: (admission, handlers) => cluster.serve({ secret, shard, epoch }, admission, handlers, () => null),
      closePort: () => cluster.stop(),
      release: async () => true,
      useCredentials: async () => {},
      backup: async () => {},
      stopBackup: async () => {},
    });
    this.wire = new WireServer({ web }, names, null, null, newOwnership);
    this.owner = { shard, epoch, host: "127.0.0.1", port: Number(cluster.address.split(":").at(-1)) };
    all.push(this);
    for (const each of all) {
      each.directory.set(shard, this.owner, epoch);
      directory.set(each.owner.shard, each.owner, each.owner.epoch);
    }
  }

  get links(): NeighbourLinks {
    return this.wire.server.measured.links!;
  }

  /** Resolves when it has links to all others, and all others have links to it. */
  async linked(): Promise<void> {
    const { neighbours } = this.wire.server.measured.core.chat;
    const isLinked = (): boolean =>
      this.links.up === SHARDS - 1 && neighbours!.all.every((each) => each?.session !== null);
    while (!isLinked()) await Bun.sleep(1);
  }
}
