/** The part of the address after `#`: which conversation is open, so that the browser's own Back works. */
import { EVERYBODY } from "./conversations.ts";
import { isName } from "./text.ts";

const TO = "#to-";

export function addressOf(conversation: string): string {
  return conversation === EVERYBODY ? "#everybody" : TO + conversation;
}

/** The conversation at an address; null: none. */
export function conversationAt(hash: string): string | null {
  if (hash === "#everybody") return EVERYBODY;
  const name = hash.slice(TO.length);
  return hash.startsWith(TO) && isName(name) ? name : null;
}
