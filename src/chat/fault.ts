import { refuse } from "../protocol/reply.ts";
import type { Chat } from "./chat.ts";
import type { Peer } from "./session.ts";

/** After a fault in a request of this peer: reports it, replies `internal` and closes the peer. */
export function fault(chat: Chat, peer: Peer, error: unknown): void {
  chat.report(error, peer);
  refuse(peer.session?.slots ?? peer.replies, "internal"); // In the order of the requests.
  peer.close();
}
