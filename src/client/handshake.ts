/** Turns a failed TLS handshake into an error that a person can act on. */
import type { PeerCertificate } from "node:tls";
import { ChatError } from "./errors.ts";
import type { ServerAddress } from "./transport.ts";

/** The error for a handshake that the TLS library ended. */
export function handshakeFailure({ code = "", message }: NodeJS.ErrnoException): ChatError {
  const [, reason = message] = /^ERR_SSL_(.*)$/.exec(code) ?? [];
  if (reason === "WRONG_VERSION_NUMBER") return new ChatError("closed", "there is no TLS at that port");
  return new ChatError("closed", `the TLS handshake failed: ${reason}`);
}

/** The error for a certificate that is not valid; `code` is the runtime's. */
export function untrusted(address: ServerAddress, certificate: PeerCertificate, code: string): ChatError {
  return new ChatError("untrusted", untrustedReason(address, certificate, code));
}

function untrustedReason(address: ServerAddress, certificate: PeerCertificate, code: string): string {
  const { subject, subjectaltname, valid_from, valid_to } = certificate;
  const words = code.toLowerCase().replaceAll("_", " ");
  switch (code) {
    case "ERR_TLS_CERT_ALTNAME_INVALID": {
      const names = subjectaltname?.replaceAll(/(DNS|IP Address):/g, "") ?? subject.CN;
      return `the certificate there is for ${names}, not for ${address.host}`;
    }
    case "CERT_HAS_EXPIRED":
      if (Date.parse(valid_to) > Date.now()) return "the authority of the certificate there has expired";
      return `the certificate there expired on ${day(valid_to)}`;
    case "CERT_NOT_YET_VALID":
      return `the certificate there is not valid before ${day(valid_from)}`;
    case "DEPTH_ZERO_SELF_SIGNED_CERT":
    case "SELF_SIGNED_CERT_IN_CHAIN":
    case "UNABLE_TO_GET_ISSUER_CERT":
    case "UNABLE_TO_GET_ISSUER_CERT_LOCALLY":
    case "UNABLE_TO_VERIFY_LEAF_SIGNATURE":
      if (address.tls !== true) return `the certificate there is not signed by an authority in --ca (${words})`;
      return `the certificate there is not signed by a trusted authority (${words}); trust it with --ca <file>`;
    default:
      return `the certificate there is not accepted: ${words}`;
  }
}

function day(date: string): string {
  return new Date(date).toISOString().slice(0, 10);
}
