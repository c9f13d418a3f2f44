/** What holds at the owner of one of several shards when nothing fails any more. */
import type { NeighbourLinks } from "../../src/net/neighbour-links.ts";
import type { Host } from "./host.ts";
import { type Ledger, Violation } from "./ledger.ts";

/** No request waits for another shard, no outcome is kept, and links are up in both directions. */
export function owesNothing({ chat, core }: Host, links: NeighbourLinks): boolean {
  const { neighbours } = chat;
  const others = neighbours!.all.filter((each) => each !== undefined);
  if (neighbours!.owesReplies || links.up < others.length) return false;
  return others.every((each) => {
    const kept = [...core.foreignRequests.kept(each.shard)];
    return neighbours!.isReachable(each) && each.slots.size === 0 && kept.length === 0;
  });
}

/** It knows who is online at all shards. */
export function knowsWhoIsOnline({ chat }: Host, ledgers: readonly Ledger[]): boolean {
  return chat.accounts.all.every(({ name, session, isElsewhere, password }) => {
    const isOnline = ledgers.some(({ online }) => online.has(name));
    return password === null || (session !== null || isElsewhere) === isOnline;
  });
}

/** Its core acts on the blocks that are stored. */
export function checkStoredBlocks({ chat }: Host, ledger: Ledger): void {
  const users = chat.accounts.all.filter(({ password }) => password !== null);
  for (const by of users) {
    for (const other of users) {
      const isHome = by.neighbour === null || other.neighbour === null;
      if (isHome && by.blocks.has(other) !== ledger.blocks(by.name, other.name))
        throw new Violation(`it is stored whether ${by.name} blocks ${other.name}, and not known`);
    }
  }
}

/** A client has no ticket that the other one does not expect, and neither expects one in vain. */
export function checkTickets(ledgers: readonly Ledger[]): void {
  const online = new Map(ledgers.flatMap((ledger) => [...ledger.online]));
  for (const ledger of ledgers) {
    for (const [user, { introductions }] of ledger.online) {
      for (const [asked, isSure] of introductions.granted)
        if (isSure && online.get(asked)?.introductions.given.has(user) !== true)
          throw new Violation(`${user} has a ticket for a chat with ${asked}, who has none`);
      for (const asker of introductions.given)
        if (online.get(asker)?.introductions.granted.has(user) !== true)
          throw new Violation(`${user} expects ${asker}, who has no ticket`);
    }
  }
}
