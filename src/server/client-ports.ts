/**
 * The ports that clients connect to, plain, over TLS, and for browsers: opened or taken over once, and from then on
 * what a connection gets can change without a moment in which a port is closed.
 */
import { type Certificate, CertificateError, readCertificate } from "../net/certificate.ts";
import { Listener } from "../net/listener.ts";
import type { ServerHandlers } from "../net/socket-handlers.ts";
import type { WebPort } from "../net/web-client.ts";
import { formatAddress } from "../runtime/host.ts";
import type { Config, TlsConfig, WebConfig } from "./config.ts";
import { type InheritedPorts, NO_PORTS } from "./inherited-ports.ts";

type Handlers = Pick<ServerHandlers, "plain" | "tls" | "web">;

export class ClientPorts {
  /** Null while there is no such port. */
  plain: Listener | null = null;
  encrypted: Listener | null = null;
  web: Listener | null = null;
  /** The port of `--direct-listen`: with TLS if there is a certificate. */
  direct: Listener | null = null;
  /** What browsers get at `web`; null without `--web`. */
  readonly webPort: WebPort | null;
  /** Null without TLS, and before the ports are open. */
  #certificate: Certificate | null = null;
  readonly #inherited: InheritedPorts;

  constructor(inherited: InheritedPorts = NO_PORTS, webPort: WebPort | null = null) {
    this.#inherited = inherited;
    this.webPort = webPort;
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

  /** Opens the ports, or takes them over. Throws ListenError, CertificateError. */
  open(
    {
      host,
      port,
      tls,
      web,
      cluster = null,
      workers = 1,
    }: Pick<Config, "host" | "port" | "tls" | "web"> & Partial<Config>,
    handlers: Handlers,
  ): void {
    const certificate = tls === null ? null : readCertificate(tls.chain, tls.key);
    const { plain, encrypted, web: inheritedWeb } = this.#inherited;
    const isShared = workers > 1;
    if (tls === null || tls.port !== null)
      this.plain = new Listener(host, port, handlers.plain, null, plain, undefined, isShared);
    if (web !== null) {
      this.web = new Listener(web.host, web.port, handlers.web!, certificate, inheritedWeb, "--web", isShared);
      this.useOrigins(web);
    }
    if (certificate !== null)
      this.encrypted = new Listener(host, tls!.port ?? port, handlers.tls, certificate, encrypted, undefined, isShared);
    this.#certificate = certificate;
    const direct = cluster?.direct ?? null;
    if (direct === null) return;
    const own = certificate === null ? handlers.plain : handlers.tls;
    this.direct = new Listener(direct.host, direct.port, own, certificate, null, "--direct-listen");
  }

  /** Present and new connections get these handlers; present ones keep their data. */
  handle(handlers: Handlers): void {
    this.plain?.handle(handlers.plain);
    this.encrypted?.handle(handlers.tls);
    this.web?.handle(handlers.web!);
    this.direct?.handle(this.isDirectTls ? handlers.tls : handlers.plain);
  }

  /** Pages of these origins may connect to `web`; by default, those that it serves itself. */
  useOrigins({ origins }: Pick<WebConfig, "origins">): void {
    if (this.web === null) return;
    const { host, port } = this.web;
    const scheme = this.webPort!.isEncrypted ? "https" : "http";
    const own = [host, "localhost", "127.0.0.1", "::1"].map(
      (each) => new URL(`${scheme}://${formatAddress(each, port)}`).origin,
    );
    this.webPort!.origins = new Set(origins ?? own);
  }

  /** Where a browser on this machine finds the page; null without `--web`. */
  get webUrl(): string | null {
    if (this.web === null) return null;
    const { host, port } = this.web;
    const reached = ["0.0.0.0", "::"].includes(host) ? "127.0.0.1" : host;
    return `${this.webPort!.isEncrypted ? "https" : "http"}://${formatAddress(reached, port)}/`;
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
    this.web?.renew(certificate);
    this.direct?.renew(certificate);
    this.#certificate = certificate;
  }

  stop(): void {
    this.plain?.stop();
    this.encrypted?.stop();
    this.web?.stop();
    this.direct?.stop();
  }
}
