/** The metrics of a server of a cluster; see metrics.ts. */
import type { NeighbourLinks } from "../net/neighbour-links.ts";
import type { RelayCounts } from "../net/relay.ts";
import type { ClusterNode } from "./cluster-node.ts";
import type { OwnMetric } from "./own-metric.ts";

/** Only in a cluster, of a spare too. */
export const CLUSTER_GAUGES: OwnMetric<[node: ClusterNode]>[] = [
  {
    name: "heartline_cluster_owner",
    help: "By shard: 1 while this server owns it, 0 otherwise.",
    label: "shard",
    read: ({ shards }) => shards.map(({ shard, isHome }) => [`${shard}`, Number(isHome)]),
  },
  {
    name: "heartline_cluster_epoch",
    help: "By shard: number of the record with which its owner has begun.",
    label: "shard",
    read: ({ shards }) => shards.map(({ shard, epoch }) => [`${shard}`, epoch]),
  },
  {
    name: "heartline_cluster_head",
    help: "By shard: number of the last record of the shared log.",
    label: "shard",
    read: ({ shards }) => shards.map(({ shard, head }) => [`${shard}`, head]),
  },
  {
    name: "heartline_cluster_silent_seconds",
    help: "By shard: since the last sign of life of its owner; at the owner: since its last acknowledged write began.",
    label: "shard",
    read: ({ shards }) => shards.map(({ shard, silentMs }) => [`${shard}`, silentMs / 1000]),
  },
  {
    name: "heartline_cluster_spares",
    help: "Spares that this server knows to be alive, itself included.",
    read: ({ livingSpares }) => livingSpares,
  },
  {
    name: "heartline_cluster_waiting_bytes",
    help: "Bytes that wait for the next record of the shared log.",
    read: ({ waitingBytes }) => waitingBytes,
  },
  {
    name: "heartline_cluster_snapshots",
    help: "Snapshots that this server has published.",
    read: ({ snapshots }) => snapshots,
  },
];

/** Only in a cluster. They go on after a takeover. */
export const RELAY_GAUGES: OwnMetric<[relays: RelayCounts]>[] = [
  { name: "heartline_relays", help: "Clients that are relayed to the owners of shards.", read: ({ open }) => open },
];
export const RELAY_COUNTERS: OwnMetric<[relays: RelayCounts]>[] = [
  {
    name: "heartline_relayed_bytes_total",
    help: "Bytes that were relayed, by direction: from clients (up) and to clients (down).",
    label: "direction",
    read: ({ bytesUp, bytesDown }) => Object.entries({ up: bytesUp, down: bytesDown }),
  },
  {
    name: "heartline_relays_refused_total",
    help: "Requests that were answered with err busy, since no owner could take them, by reason.",
    label: "reason",
    read: ({ refusals }) => refusals,
  },
];

/** Only at the owner of a shard, when there are others. */
export const LINK_GAUGES: OwnMetric<[links: NeighbourLinks]>[] = [
  { name: "heartline_links", help: "Shards that this server is connected to.", read: ({ up }) => up },
  {
    name: "heartline_forwards",
    help: "By shard: requests that were forwarded to it and have no reply yet.",
    label: "shard",
    read: ({ forwards }) => forwards,
  },
  {
    name: "heartline_forward_oldest_seconds",
    help: "Since the request was forwarded that has waited longest for a reply.",
    read: ({ oldestForwardMs }) => oldestForwardMs / 1000,
  },
];
export const LINK_COUNTERS: OwnMetric<[links: NeighbourLinks]>[] = [
  {
    name: "heartline_links_lost_total",
    help: "Connections to other shards that have ended or failed, by reason.",
    label: "reason",
    read: ({ lost }) => lost,
  },
];
