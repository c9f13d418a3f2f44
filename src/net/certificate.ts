/** Reads and checks the certificate of the server and its private key. */

import { X509Certificate, createPrivateKey } from "node:crypto";
import { createSecureContext } from "node:tls";
import { CERTIFICATE_BYTES_MAX } from "../limits.ts";
import { type InputKind, readInput, whyUnreadable } from "../runtime/input-file.ts";

/** Certificate and private key for TLS, in PEM format as the files have it. */
export interface Certificate {
  /** The server's own certificate, then the intermediate ones. */
  chain: string;
  key: string;
  /** Null: the other side needs no certificate. Otherwise it needs one of these authorities (PEM). */
  authorities: string | null;
  /** Why the certificate is not valid now, for the log; null when it is valid. */
  outdated: string | null;
  /** When it expires, in Unix time. */
  expiresMs: number;
}

/** A certificate or key cannot be used. The message names the file and is meant for the operator. */
export class CertificateError extends Error {}

/**
 * Reads a certificate chain and its key: from files of any kind when the server starts, from regular files while it
 * runs, since reading a pipe could block the event loop. Throws CertificateError.
 */
export function readCertificate(
  chainFile: string,
  keyFile: string,
  kind: InputKind = "any",
  authoritiesFile: string | null = null,
): Certificate {
  const [chain, key] = [read(chainFile, kind), read(keyFile, kind)];
  const certificate = parse(chainFile, "certificate", () => new X509Certificate(chain));
  const isKeyOf = certificate.checkPrivateKey(parse(keyFile, "private key", () => createPrivateKey(key)));
  if (!isKeyOf) throw new CertificateError(`${keyFile} is not the key of the certificate in ${chainFile}`);
  parse(chainFile, "chain of certificates", () => createSecureContext({ cert: chain, key }));
  const { validFromDate, validToDate } = certificate;
  let outdated: string | null = null;
  if (validToDate.getTime() < Date.now()) outdated = `${chainFile} expired on ${validToDate.toISOString()}`;
  if (validFromDate.getTime() > Date.now())
    outdated = `${chainFile} is not valid before ${validFromDate.toISOString()}`;
  return {
    chain,
    key,
    authorities: readAuthorities(authoritiesFile, kind),
    outdated,
    expiresMs: validToDate.getTime(),
  };
}

function readAuthorities(file: string | null, kind: InputKind): string | null {
  if (file === null) return null;
  const authorities = read(file, kind);
  parse(file, "certificate", () => new X509Certificate(authorities));
  return authorities;
}

function read(file: string, kind: InputKind): string {
  try {
    return readInput(file, CERTIFICATE_BYTES_MAX, kind).toString();
  } catch (error) {
    throw new CertificateError(`cannot read ${file}: ${whyUnreadable(error)}`);
  }
}

function parse<T>(file: string, what: string, parser: () => T): T {
  try {
    return parser();
  } catch (error) {
    const isEncrypted = (error as NodeJS.ErrnoException).code === "ERR_MISSING_PASSPHRASE";
    throw new CertificateError(
      isEncrypted
        ? `cannot use ${file}: the private key has a passphrase; remove it from the file`
        : `cannot use ${file}: there is no valid ${what} in it; it must be in PEM format`,
    );
  }
}
