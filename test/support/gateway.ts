import type { Config } from "../../src/server/config.ts";
import type { BoundedLog } from "../../src/server/bounded-log.ts";
import { readCertificate } from "../../src/net/certificate.ts";
import type { ClusterTls } from "../../src/net/owner-link.ts";
import type { WebPort } from "../../src/net/web-client.ts";
import { type ServerHandlers, socketHandlers } from "../../src/net/socket-handlers.ts";
import type { ClusterTlsConfig } from "../../src/server/config.ts";
import { ClientPorts } from "../../src/server/client-ports.ts";
import { ClusterPort } from "../../src/server/cluster-port.ts";
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
    this.cluster.serve({ secret: SECRET, epoch }, admission, handlers);
    this.gateway = new Gateway(config, { secret, tls: tlsOf(gatewayTls) }, log, CLOCK, webPort);
    this.ports.open(config, this.gateway.handlers);
    this.gateway.start();
    const { plain, encrypted } = this.ports;
    this.port = (plain ?? encrypted)!.port;
    this.tlsPort = plain === null ? 0 : (encrypted?.port ?? 0);
    this.gateway.relays.setOwner(this.owner);
  }

  get owner(): { host: string; port: number; epoch: number } {
    return { host: "127.0.0.1", port: Number(this.cluster.address.split(":").at(-1)), epoch: 1 };
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
