import { X509Certificate, createPrivateKey } from "node:crypto";
import { createSecureContext } from "node:tls";
import { CERTIFICATE_BYTES_MAX } from "../limits.ts";
import { type InputKind, readInput, whyUnreadable } from "../runtime/input-file.ts";

/** What a server shows of itself over TLS: PEM, as they stand in their files. */
export interface Certificate {
  /** The server's own certificate first. */
  chain: string;
  key: string;
  /** Says since when it is no good any more, or from when on it will be; null while it is. */
  outdated: string | null;
}

/** A certificate or key that cannot be used: names the file, in words for the operator. */
export class CertificateError extends Error {}

/**
 * Reads a certificate, with the rest of its chain, and its key: from any kind of file at the start, from regular files
 * while the server runs. Throws CertificateError.
 */
export function readCertificate(chainFile: string, keyFile: string, kind: InputKind = "any"): Certificate {
  const [chain, key] = [read(chainFile, kind), read(keyFile, kind)];
  const certificate = understood(chainFile, "certificate", () => new X509Certificate(chain));
  const isKeyOf = certificate.checkPrivateKey(understood(keyFile, "private key", () => createPrivateKey(key)));
  if (!isKeyOf) throw new CertificateError(`${keyFile} is not the key of the certificate in ${chainFile}`);
  understood(chainFile, "chain of certificates", () => createSecureContext({ cert: chain, key }));
  const { validFromDate, validToDate } = certificate;
  let outdated: string | null = null;
  if (validToDate.getTime() < Date.now()) outdated = `${chainFile} expired on ${validToDate.toISOString()}`;
  if (validFromDate.getTime() > Date.now())
    outdated = `${chainFile} is not valid before ${validFromDate.toISOString()}`;
  return { chain, key, outdated };
}

function read(file: string, kind: InputKind): string {
  try {
    return readInput(file, CERTIFICATE_BYTES_MAX, kind).toString();
  } catch (error) {
    throw new CertificateError(`cannot read ${file}: ${whyUnreadable(error)}`);
  }
}

function understood<T>(file: string, what: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    const isEncrypted = (error as NodeJS.ErrnoException).code === "ERR_MISSING_PASSPHRASE";
    throw new CertificateError(
      isEncrypted
        ? `the private key in ${file} has a passphrase, and nobody is there to type it`
        : `there is no ${what} in ${file} that can be used (PEM)`,
    );
  }
}
