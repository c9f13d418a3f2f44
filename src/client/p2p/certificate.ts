import { pbkdf2Sync } from "node:crypto";

const DAY_MS = 24 * 3600 * 1000;
const VALID_MS = 365 * DAY_MS;
/** A safety number: 30 digits, each group of 5 from 5 bytes, as Signal does it. */
const GROUPS = 6;
const GROUP_BYTES = 5;
/** Makes a search for two certificates with the same number this much more work; takes some 20 ms. */
const SAFETY_ROUNDS = 100_000;

/** Who somebody is for one run of a client: a key and a self-signed certificate, both as PEM, and that as base64. */
export interface Certificate {
  key: string;
  pem: string;
  base64: string;
}

/** A fresh certificate for that user. The library is loaded only now, since that takes longer than all the rest. */
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

/** What two people compare aloud: the same on both sides when each has the other's true certificate. */
export function safetyNumber(one: string, other: string): string {
  const both = Buffer.concat([one, other].sort().map((base64) => Buffer.from(base64, "base64")));
  const digest = pbkdf2Sync(both, "heartline safety number", SAFETY_ROUNDS, GROUPS * GROUP_BYTES, "sha256");
  const group = (_: unknown, i: number): string =>
    String(digest.readUIntBE(i * GROUP_BYTES, GROUP_BYTES) % 100_000).padStart(5, "0");
  return Array.from({ length: GROUPS }, group).join(" ");
}
