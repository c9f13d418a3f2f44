import type { Credentials } from "../auth/credentials.ts";
import type { Admission } from "../net/admission.ts";
import type { NeighbourLinks } from "../net/neighbour-links.ts";
import type { Relays } from "../net/relays.ts";
import type { ServerHandlers } from "../net/socket-handlers.ts";
import type { Core } from "./core.ts";

/** What the server asks of its place in a cluster, as the owner of a shard. */
export interface Ownership {
  /** The shard. */
  readonly shard: number;
  /** How many shards the cluster has. */
  readonly shardCount: number;
  /** Passes clients on to the owners of all shards except `home`, whose users the core has. */
  newRelays(core: Pick<Core, "chat" | "turn">, home: number | null): Relays;
  /** The links to the owners of the other shards; they do not connect yet. */
  newLinks(core: Core): NeighbourLinks;
  /** The clients of gateways are connections of this server from now on, and after `closePort` no new ones. */
  serveGateways(admission: Admission, handlers: ServerHandlers): void;
  closePort(): void;
  /** Gives the shard up, when everything is acknowledged. False when the engine does not answer in time. */
  release(): Promise<boolean>;
  /** The server has other credentials from now on. */
  useCredentials(credentials: Credentials): Promise<void>;
  /** Makes a data folder of everything that was acknowledged. Rejects with StoreError. */
  backup(path: string): Promise<void>;
  /** Ends a running backup without its result. */
  stopBackup(): Promise<void>;
}
