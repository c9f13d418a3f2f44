import type { Config } from "../../src/server/config.ts";
import type { BoundedLog } from "../../src/server/bounded-log.ts";
import { readCertificate } from "../../src/net/certificate.ts";
import { Directory } from "../../src/net/directory.ts";
import { type ClusterTls, dialOwner, type Owner } from "../../src/net/owner-link.ts";
import { RelayCounts } from "../../src/net/relay.ts";
import { Relays } from "../../src/net/relays.ts";
import type { WebPort } from "../../src/net/web-client.ts";
import { type ServerHandlers, socketHandlers } from "../../src/net/socket-handlers.ts";
import type { ClusterTlsConfig } from "../../src/server/config.ts";
import { ClientPorts } from "../../src/server/client-ports.ts";
import { ClusterPort } from "../../src/server/cluster-port.ts";
import type { Core } from "../../src/server/core.ts";
import { Gateway } from "../../src/server/gateway.ts";
import { CLOCK, type Server } from "../../src/server/server.ts";

export const SECRET = Buffer.alloc(32, 7);

/** What a test chooses for the gateway; `tls` and `epoch` are the owner's. */
export interface GatewayChoices {
  secret?: Buffer;
  epoch?: number;
  tls?: ClusterTlsConfig | null;
  gatewayTls?: ClusterTlsConfig | null;
}

/** A gateway in this process that relays to a server as to the owner of a shard. */
export class WireGateway {
  readonly gateway: Gateway;
  readonly port: number;
  readonly tlsPort: number;
  readonly cluster: ClusterPort;
  readonly ports: ClientPorts;
  readonly directory = new Directory(1);
  readonly counts = new RelayCounts();
  readonly #server: Server;
  readonly #handlers: ServerHandlers;

  constructor(
    server: Server,
    config: Config,
    log: BoundedLog,
    { secret = SECRET, epoch = 1, tls = null, gatewayTls = tls }: GatewayChoices = {},
    webPort: WebPort | null = null,
  ) {
    this.ports = new ClientPorts(undefined, webPort);
    const { core, admission } = server.measured;
    this.cluster = new ClusterPort({ listen: { host: "127.0.0.1", port: 0 }, tls });
    const report = (error: unknown): void => log.error({ event: "internal_error", err: error }, "internal error");
    const handlers = socketHandlers(() => core.turn.begin(), admission, report, webPort);
    this.#server = server;
    this.#handlers = handlers;
    this.cluster.serve({ secret: SECRET, shard: 0, epoch }, admission, handlers, () => null);
    const { directory, counts } = this;
    const newRelays = ({ chat, turn }: Pick<Core, "chat" | "turn">): Relays => {
      const dial = dialOwner(tlsOf(gatewayTls), () => turn.begin());
      return new Relays({ chat, home: null, directory, secret, dial, counts, log });
    };
    this.gateway = new Gateway(config, newRelays, log, CLOCK, webPort);
    this.ports.open(config, this.gateway.handlers);
    this.gateway.start();
    const { plain, encrypted } = this.ports;
    this.port = (plain ?? encrypted)!.port;
    this.tlsPort = plain === null ? 0 : (encrypted?.port ?? 0);
    this.setOwner(this.owner);
  }

  setOwner(owner: Owner | null): void {
    this.directory.set(0, owner, 1);
  }

  get owner(): Owner {
    return { shard: 0, epoch: 1, host: "127.0.0.1", port: Number(this.cluster.address.split(":").at(-1)) };
  }

  /** The server serves the gateway's clients itself. */
  takeOver(): void {
    this.ports.handle(this.#handlers);
    this.gateway.handOver(this.#server);
  }

  stop(): void {
    this.ports.stop();
    this.cluster.stop();
    this.gateway.stop();
  }
}

function tlsOf(files: ClusterTlsConfig | null): ClusterTls | null {
  if (files === null) return null;
  const { chain, key, authorities } = readCertificate(files.chain, files.key, "any", files.authorities);
  return { chain, key, authorities: authorities! };
}
