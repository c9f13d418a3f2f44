import "reflect-metadata";
import {
  BasicConstraintsExtension,
  type JsonGeneralName,
  PemConverter,
  SubjectAlternativeNameExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import { mkdirSync, writeFileSync } from "node:fs";
import { isIP } from "node:net";
import { join } from "node:path";
import type { ClusterTlsConfig } from "../../src/server/config.ts";
import { newFolder } from "./folders.ts";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const DAY_MS = 24 * 3600 * 1000;

/** A certificate and its private key, both as PEM. */
export interface Certificate {
  cert: string;
  key: string;
}

/** A certificate for these names and IP addresses. Without an `issuer` it is self-signed and a certificate authority. */
export async function makeCertificate(
  names = ["localhost", "127.0.0.1", "::1"],
  {
    issuer,
    notBefore = new Date(Date.now() - DAY_MS),
    notAfter = new Date(Date.now() + DAY_MS),
  }: { issuer?: Certificate; notBefore?: Date; notAfter?: Date } = {},
): Promise<Certificate> {
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
  const subject = `CN=${names[0] ?? "nobody"}`;
  const alternatives = names.map((value): JsonGeneralName => ({ type: isIP(value) === 0 ? "dns" : "ip", value }));
  const certificate = await X509CertificateGenerator.create({
    subject,
    issuer: issuer === undefined ? subject : new X509Certificate(issuer.cert).subject,
    publicKey: keys.publicKey,
    signingKey: issuer === undefined ? keys.privateKey : await importKey(issuer.key),
    signingAlgorithm: ALGORITHM,
    notBefore,
    notAfter,
    extensions: [
      new BasicConstraintsExtension(issuer === undefined, undefined, true),
      ...(names.length === 0 ? [] : [new SubjectAlternativeNameExtension(alternatives)]),
    ],
  });
  const key = PemConverter.encode(await crypto.subtle.exportKey("pkcs8", keys.privateKey), "PRIVATE KEY");
  return { cert: certificate.toString("pem"), key };
}

/** Writes both PEM files into a folder; returns their paths. */
export function writeCertificate(folder: string, { cert, key }: Certificate): { chain: string; key: string } {
  const files = { chain: join(folder, "cert.pem"), key: join(folder, "key.pem") };
  writeFileSync(files.chain, cert);
  writeFileSync(files.key, key);
  return files;
}

function importKey(pem: string): Promise<CryptoKey> {
  return crypto.subtle.importKey("pkcs8", PemConverter.decodeFirst(pem), ALGORITHM, true, ["sign"]);
}

/** The files of a server of a cluster, in a `newFolder`: its certificate, and the authority of all servers. */
export function writeClusterCertificate(certificate: Certificate, authority: Certificate): ClusterTlsConfig {
  const folder = newFolder();
  mkdirSync(join(folder, "ca"));
  return {
    ...writeCertificate(folder, certificate),
    authorities: writeCertificate(join(folder, "ca"), authority).chain,
  };
}
