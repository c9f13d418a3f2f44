/** Certificates of private chats, and the safety number by which two people compare them. */
import { pbkdf2Sync } from "node:crypto";

const DAY_MS = 24 * 3600 * 1000;
const VALID_MS = 365 * DAY_MS;
/** A safety number has 30 digits: 6 groups of 5 digits, each from 5 bytes, as in Signal. */
const GROUPS = 6;
const GROUP_BYTES = 5;
/** Rounds of PBKDF2, which make a search for two certificates with the same number more expensive. Takes 20 ms. */
const SAFETY_ROUNDS = 100_000;

/** The identity of a client for one run: a key and a self-signed certificate. */
export interface Certificate {
  /** The private key, as PEM. */
  key: string;
  pem: string;
  /** The certificate in DER, as base64. */
  base64: string;
}

/** Creates a certificate for a user. Loads the library only now, because loading takes longer than the rest. */
export async function newCertificate(user: string): Promise<Certificate> {
  await import("reflect-metadata");
  const x509 = await import("@peculiar/x509");
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name: [{ CN: [user] }],
    notBefore: new Date(Date.now() - DAY_MS),
    notAfter: new Date(Date.now() + VALID_MS),
    keys,
    signingAlgorithm: algorithm,
    extensions: [new x509.SubjectAlternativeNameExtension([{ type: "dns", value: user }])],
  });
  const key = x509.PemConverter.encode(await crypto.subtle.exportKey("pkcs8", keys.privateKey), "PRIVATE KEY");
  return { key, pem: certificate.toString("pem"), base64: Buffer.from(certificate.rawData).toString("base64") };
}

/** The number of two certificates, in any order. It is equal on both sides if each has the certificate of the other. */
export function safetyNumber(one: string, other: string): string {
  const both = Buffer.concat([one, other].sort().map((base64) => Buffer.from(base64, "base64")));
  const digest = pbkdf2Sync(both, "heartline safety number", SAFETY_ROUNDS, GROUPS * GROUP_BYTES, "sha256");
  const group = (_: unknown, i: number): string =>
    String(digest.readUIntBE(i * GROUP_BYTES, GROUP_BYTES) % 100_000).padStart(5, "0");
  return Array.from({ length: GROUPS }, group).join(" ");
}
