/** Shards of a cluster in one process: real servers and real sockets, each shard with a store in memory. */
import { Directory } from "../../src/net/directory.ts";
import { NeighbourLinks } from "../../src/net/neighbour-links.ts";
import { dialOwner } from "../../src/net/owner-link.ts";
import { RelayCounts } from "../../src/net/relay.ts";
import { Relays } from "../../src/net/relays.ts";
import type { BoundedLog } from "../../src/server/bounded-log.ts";
import { ClusterPort } from "../../src/server/cluster-port.ts";
import type { ClusterTlsConfig } from "../../src/server/config.ts";
import type { Core } from "../../src/server/core.ts";
import type { Ownership } from "../../src/server/ownership.ts";
import { SECRET } from "./gateway.ts";
import { NAMES, WireServer } from "./wire.ts";

export interface WireShardChoices {
  epoch?: number;
  secret?: Buffer;
  tls?: ClusterTlsConfig | null;
}

/** The owner of one shard. It is in the directory while it listens. */
export class WireShard {
  readonly wire: WireServer;
  /** Of the port for other servers. */
  readonly port: number;
  readonly epoch: number;
  readonly #directory: Directory;

  constructor(
    directory: Directory,
    shard: number,
    { epoch = 1, secret = SECRET, tls = null }: WireShardChoices = {},
    names: readonly string[] = NAMES,
  ) {
    const cluster = new ClusterPort({ listen: { host: "127.0.0.1", port: 0 }, tls });
    const newOwnership = (log: BoundedLog): Ownership => ({
      shard,
      shardCount: directory.shards,
      newRelays: ({ chat, turn }) => {
        const dial = dialOwner(cluster.tls, () => turn.begin());
        return new Relays({ chat, directory, secret, dial, counts: new RelayCounts(), log });
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
    this.wire = new WireServer({}, names, null, newOwnership);
    this.port = Number(cluster.address.split(":").at(-1));
    this.epoch = epoch;
    this.#directory = directory;
    directory.set(shard, { shard, epoch, host: "127.0.0.1", port: this.port }, epoch);
  }

  get links(): NeighbourLinks {
    return this.wire.server.measured.links!;
  }

  /** Resolves when it has links to all others, and all others have links to it. */
  async linked(): Promise<void> {
    const { neighbours } = this.wire.server.measured.core.chat;
    const isLinked = (): boolean =>
      this.links.up === this.#directory.shards - 1 && neighbours!.all.every((each) => each?.session !== null);
    while (!isLinked()) await Bun.sleep(1);
  }
}
