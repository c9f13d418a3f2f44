/** Turns a failed TLS handshake into an error that a person can act on. */
import type { Socket } from "bun";
import { ChatError } from "./errors.ts";
import type { ServerAddress } from "./session.ts";

/** The error for a failed TLS handshake, with a detail for people: `untrusted` or `closed`. */
export function handshakeFailure(address: ServerAddress, socket: Socket<undefined>, error: Error | null): ChatError {
  const { code, message } = error as NodeJS.ErrnoException;
  switch (code) {
    case "EPROTO": {
      const reason = message.split(":").at(-1)!; // After the error number and the names of the library.
      if (reason === "WRONG_VERSION_NUMBER") return new ChatError("closed", "there is no TLS at that port");
      return new ChatError("closed", `the TLS handshake failed: ${reason}`);
    }
    default:
      return new ChatError("untrusted", untrustedReason(address, socket, code ?? "", message));
  }
}

function untrustedReason(address: ServerAddress, socket: Socket<undefined>, code: string, message: string): string {
  const { subject, subjectaltname, valid_from, valid_to } = socket.getPeerCertificate();
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
      if (address.tls !== true) return `the certificate there is not signed by an authority in --ca (${message})`;
      return `the certificate there is not signed by a trusted authority (${message}); trust it with --ca <file>`;
    default:
      return `the certificate there is not accepted: ${message}`;
  }
}

function day(date: string): string {
  return new Date(date).toISOString().slice(0, 10);
}
