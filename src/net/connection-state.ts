/**
 * - `unauthenticated`: takes requests, has no session. PROXY header and TLS handshake are over (admission.ts).
 * - `open`: takes requests, has a session.
 * - `relayed`: another server of the cluster serves the client (relay.ts). Takes no further request.
 * - `draining`: takes no further request. Input is dropped, output is written.
 * - `shut`: everything was written, and our side is closed (FIN). Input is dropped.
 * - `closed`: the socket is closed.
 */
export type ConnectionState = "unauthenticated" | "open" | "relayed" | "draining" | "shut" | "closed";

const TRANSITIONS: Record<ConnectionState, readonly ConnectionState[]> = {
  unauthenticated: ["open", "relayed", "draining", "closed"],
  open: ["draining", "closed"],
  relayed: ["closed"],
  draining: ["shut", "closed"],
  shut: ["closed"],
  closed: [],
};

/** Throws when a connection cannot change from the one state to the other. */
export function checkTransition(from: ConnectionState, to: ConnectionState): void {
  if (!TRANSITIONS[from].includes(to)) throw new Error(`a connection cannot change from ${from} to ${to}`);
}
