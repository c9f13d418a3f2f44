import { X509Certificate } from "node:crypto";
import type { Admission } from "../net/admission.ts";
import { type Certificate, CertificateError, readCertificate } from "../net/certificate.ts";
import { Listener } from "../net/listener.ts";
import type { ClusterTls } from "../net/owner-link.ts";
import { type OwnerIdentity, RelayedConnections } from "../net/relayed-connections.ts";
import type { ServerHandlers, SocketHandlers } from "../net/socket-handlers.ts";
import type { ClusterConfig, ClusterTlsConfig } from "./config.ts";

/** A server that owns no shard takes no connection of another server. */
const CLOSED: SocketHandlers = {
  open: (socket) => void socket.terminate(),
  handshake: (socket) => void socket.terminate(),
  data: () => {},
  error: (socket) => void socket.terminate(),
};

/** The port of `--cluster-listen`: other servers connect there, for their clients. */
export class ClusterPort {
  /** `<ip>:<port>`, as other servers see it. */
  readonly address: string;
  readonly #certificate: Certificate | null;
  readonly #listener: Listener;

  /** Throws ListenError, CertificateError. */
  constructor({ listen: { host, port }, tls }: Pick<ClusterConfig, "listen" | "tls">) {
    this.#certificate = tls === null ? null : readClusterCertificate(tls, host);
    this.#listener = new Listener(host, port, CLOSED, this.#certificate, null, "--cluster-listen");
    this.address = this.#listener.address;
  }

  /** Why other servers do not trust the certificate; null when they do, and without TLS. */
  get outdated(): string | null {
    return this.#certificate?.outdated ?? null;
  }

  /** What this server shows to others and expects of them; null for plain TCP. */
  get tls(): ClusterTls | null {
    if (this.#certificate === null) return null;
    const { authorities, chain, key } = this.#certificate;
    return { authorities: authorities!, chain, key };
  }

  /** This server owns the shard: clients of other servers become connections of it. */
  serve(
    identity: OwnerIdentity,
    admission: Admission,
    handlers: ServerHandlers,
    accept: RelayedConnections["accept"],
  ): void {
    const relayed = new RelayedConnections(admission, identity, this.#certificate !== null, accept);
    this.#listener.handle(relayed.handlers(handlers));
  }

  stop(): void {
    this.#listener.stop();
  }
}

/** Throws CertificateError, also for a certificate that other servers do not accept at that address. */
export function readClusterCertificate({ authorities, chain, key }: ClusterTlsConfig, host: string): Certificate {
  const certificate = readCertificate(chain, key, "any", authorities);
  if (new X509Certificate(certificate.chain).checkIP(host) !== undefined) return certificate;
  throw new CertificateError(
    `${chain} is not valid for ${host}, the address of --cluster-listen; make one with subjectAltName=IP:${host}`,
  );
}
