/**
 * The ports that clients connect to, plain and over TLS: opened or taken over once, and from then on what a connection
 * gets can change without a moment in which a port is closed.
 */
import { type Certificate, CertificateError, readCertificate } from "../net/certificate.ts";
import { Listener } from "../net/listener.ts";
import type { SocketHandlers } from "../net/socket-handlers.ts";
import type { Config, TlsConfig } from "./config.ts";
import type { InheritedPorts } from "./inherited-ports.ts";

export class ClientPorts {
  /** Null while there is no such port. */
  plain: Listener | null = null;
  encrypted: Listener | null = null;
  /** The port of `--direct-listen`: with TLS if there is a certificate. */
  direct: Listener | null = null;
  /** Null without TLS, and before the ports are open. */
  #certificate: Certificate | null = null;
  readonly #inherited: InheritedPorts;

  constructor(inherited: InheritedPorts = { plain: null, encrypted: null }) {
    this.#inherited = inherited;
  }

  get isOpen(): boolean {
    return this.plain !== null || this.encrypted !== null;
  }

  /** Why clients do not trust the certificate; null when they do, and without TLS. */
  get outdated(): string | null {
    return this.#certificate?.outdated ?? null;
  }

  /** The port of `--direct-listen` uses TLS. */
  get isDirectTls(): boolean {
    return this.#certificate !== null;
  }

  /** Opens the plain port, the TLS port, or both, or takes them over. Throws ListenError, CertificateError. */
  open(
    { host, port, tls, cluster = null, workers = 1 }: Pick<Config, "host" | "port" | "tls"> & Partial<Config>,
    handlers: { plain: SocketHandlers; tls: SocketHandlers },
  ): void {
    const certificate = tls === null ? null : readCertificate(tls.chain, tls.key);
    const { plain, encrypted } = this.#inherited;
    const isShared = workers > 1;
    if (tls === null || tls.port !== null)
      this.plain = new Listener(host, port, handlers.plain, null, plain, undefined, isShared);
    if (certificate !== null)
      this.encrypted = new Listener(host, tls!.port ?? port, handlers.tls, certificate, encrypted, undefined, isShared);
    this.#certificate = certificate;
    const direct = cluster?.direct ?? null;
    if (direct === null) return;
    const own = certificate === null ? handlers.plain : handlers.tls;
    this.direct = new Listener(direct.host, direct.port, own, certificate, null, "--direct-listen");
  }

  /** Present and new connections get these handlers; present ones keep their data. */
  handle(handlers: { plain: SocketHandlers; tls: SocketHandlers }): void {
    this.plain?.handle(handlers.plain);
    this.encrypted?.handle(handlers.tls);
    this.direct?.handle(this.isDirectTls ? handlers.tls : handlers.plain);
  }

  /**
   * Reads the certificate in these files; null when it is the one in use, or when there is no TLS. Throws
   * CertificateError, also when it is not valid now.
   */
  newCertificate(tls: TlsConfig | null): Certificate | null {
    if (this.#certificate === null || tls === null) return null;
    const certificate = readCertificate(tls.chain, tls.key, "regular");
    const { chain, key, outdated } = certificate;
    if (chain === this.#certificate.chain && key === this.#certificate.key) return null;
    if (outdated !== null) throw new CertificateError(outdated);
    return certificate;
  }

  renew(certificate: Certificate): void {
    this.encrypted!.renew(certificate);
    this.direct?.renew(certificate);
    this.#certificate = certificate;
  }

  stop(): void {
    this.plain?.stop();
    this.encrypted?.stop();
    this.direct?.stop();
  }
}
