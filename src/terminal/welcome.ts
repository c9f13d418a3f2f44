import type { ChatClient } from "../client/client.ts";
import { hereNote, isUserName } from "./commands.ts";
import type { Conversation } from "./conversation.ts";
import type { Incoming } from "./incoming.ts";
import type { Outgoing } from "./outgoing.ts";
import type { People } from "./people.ts";
import type { Transcript } from "./transcript.ts";

/**
 * Lines about the session itself: the users online and the messages that waited, at the login and after each loss of
 * the connection, and a server that does not reply.
 */

/** Names in the line about who is here. */
const HERE_MAX = 20;
/** Senders in the line about what waited. */
const SENDERS_MAX = 5;

export interface WelcomeParts {
  client: ChatClient;
  transcript: Transcript;
  people: People;
  incoming: Incoming;
  outgoing: Outgoing;
  conversation: Conversation;
}

export class Welcome {
  readonly #parts: WelcomeParts;
  /** Time of the loss of the connection; null while it is there. */
  #lostMs: number | null = null;
  /** Whether the line about a silent server was printed, without one about its return. */
  #isSilenceShown = false;

  constructor(parts: WelcomeParts) {
    this.#parts = parts;
    parts.outgoing.onSilence = (isSilent, ms) => this.#silence(isSilent, ms);
  }

  get isLost(): boolean {
    return this.#lostMs !== null;
  }

  /** After the login: who is here, and what waited. */
  async greet(): Promise<void> {
    const { client, transcript, incoming } = this.#parts;
    try {
      const names = await this.#fetchOnline();
      incoming.printStored();
      transcript.note(hereNote(names.slice(0, HERE_MAX), Math.max(0, names.length - HERE_MAX)));
      await client.catchUp();
    } catch {
      return; // The loss of the connection, or the end of the session, is reported by itself.
    }
    const waited = waitedNote(incoming.stored);
    if (waited !== "") transcript.note(waited);
  }

  async #fetchOnline(): Promise<string[]> {
    const { client, people, outgoing } = this.#parts;
    const { names } = await outgoing.track(client.online());
    const valid = names.filter(isUserName);
    people.setOnline(valid);
    return valid;
  }

  lost(): void {
    this.#lostMs ??= performance.now();
    this.#isSilenceShown = false;
    this.#parts.transcript.note("* the connection was lost; commands that you type now wait until it is back");
    this.#parts.conversation.status = "(lost) ";
  }

  back(): void {
    const seconds = Math.round((performance.now() - this.#lostMs!) / 1000);
    this.#lostMs = null;
    this.#parts.conversation.status = "";
    void this.#backNote(seconds);
  }

  async #backNote(seconds: number): Promise<void> {
    const { transcript, incoming } = this.#parts;
    const before = incoming.messages;
    // The reply follows everything that waited in the session.
    await this.#fetchOnline().catch(() => {});
    await new Promise((resolve) => setImmediate(resolve)); // What arrived together with the reply is printed.
    if (this.isLost) return;
    const count = incoming.messages - before;
    const waited = count === 0 ? "nothing" : count === 1 ? "1 message" : `${count} messages`;
    transcript.note(`* back after ${seconds} s; ${waited} waited for you`);
  }

  #silence(isSilent: boolean, ms: number): void {
    const { transcript, conversation } = this.#parts;
    if (this.isLost) return;
    if (isSilent) transcript.note(`* no answer for ${Math.round(ms / 1000)} s; what you type waits`);
    else if (this.#isSilenceShown) transcript.note(`* back after ${Math.round(ms / 1000)} s without an answer`);
    this.#isSilenceShown = isSilent;
    conversation.status = isSilent ? "(no answer) " : "";
  }
}

/** What waited at the server; empty for nothing. */
function waitedNote(stored: ReadonlyMap<string, number>): string {
  let total = 0;
  for (const count of stored.values()) total += count;
  if (total === 0) return "";
  const senders = [...stored].sort(([, a], [, b]) => b - a);
  const named = senders.slice(0, SENDERS_MAX).map(([user, count]) => `${count} from ${user}`);
  const more = senders.length > SENDERS_MAX ? ` and from ${senders.length - SENDERS_MAX} others` : "";
  return `* ${total === 1 ? "1 message" : `${total} messages`} waited for you: ${named.join(", ")}${more}`;
}
