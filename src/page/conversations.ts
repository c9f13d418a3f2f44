/**
 * The messages of one user, by conversation: their order, what is unread, and the states of the user's own messages. It
 * keeps everything in memory and knows no page and no database: database.ts stores what `changed` reports.
 */

/** Name of the conversation with everybody. No user has an empty name. */
export const EVERYBODY = "";

/** Messages that are kept, and how many more there may be before the oldest ones are dropped. */
export const MESSAGES_MAX = 5_000;
export const MESSAGES_EXCESS_MAX = 500;

/**
 * "waiting": the server has not answered yet; "sent": it is with the recipient's session; "stored": it waits for the
 * recipient; "refused": `detail` says why; "unknown": the reply was lost.
 */
export type SendState = "waiting" | "sent" | "stored" | "refused" | "unknown";

export interface Message {
  /** Grows with each message of this browser, so that it is the order too. */
  id: number;
  /** The other user, or EVERYBODY. */
  conversation: string;
  /** The sender; empty for a notice of the operator. */
  from: string;
  text: string;
  /** For a received message when it was accepted or arrived, for an own one when it was typed. */
  timeMs: number;
  /** Null for a received message. */
  state: SendState | null;
  /** Of an own message: why it was refused, or the number of users that a message to everybody went to. */
  detail: string;
}

/** What the list of conversations shows of one. */
export interface Summary {
  name: string;
  last: Message | null;
  unread: number;
}

interface Conversation {
  messages: Message[];
  /** Id of the last message that was read. */
  readId: number;
  unread: number;
}

export interface ConversationsListener {
  /** A message is new or has changed. */
  changed(message: Message): void;
  removed(ids: number[]): void;
  /** The conversation was read up to this message. */
  read(conversation: string, id: number): void;
}

export class Conversations {
  readonly #user: string;
  readonly #listener: ConversationsListener;
  readonly #byName = new Map<string, Conversation>();
  #lastId = 0;
  #count = 0;

  constructor(user: string, listener: ConversationsListener) {
    this.#user = user;
    this.#listener = listener;
  }

  /** What was stored earlier: messages in the order of their ids, and what was read. */
  load(messages: readonly Message[], read: Readonly<Record<string, number>>): void {
    for (const [name, id] of Object.entries(read)) this.#of(name).readId = id;
    for (const message of messages) this.#insert(message);
    this.#trim();
  }

  /** A message has arrived. */
  receive(conversation: string, from: string, text: string, timeMs: number): Message {
    return this.#add({ id: 0, conversation, from, text, timeMs, state: null, detail: "" });
  }

  /** This user sends a message. */
  send(conversation: string, text: string, timeMs: number): Message {
    return this.#add({ id: 0, conversation, from: this.#user, text, timeMs, state: "waiting", detail: "" });
  }

  /** The outcome of an own message. */
  settle(message: Message, state: SendState, detail = ""): void {
    message.state = state;
    message.detail = detail;
    this.#listener.changed(message);
  }

  /** An own message that failed is removed, for example because it is sent again. */
  remove({ id, conversation }: Message): void {
    const { messages } = this.#of(conversation);
    const index = messages.findIndex((each) => each.id === id);
    if (index < 0) return;
    messages.splice(index, 1);
    this.#count--;
    this.#listener.removed([id]);
  }

  /** The first own message that waits and was sent by this request; undefined without one. */
  waitingFor(request: string): Message | undefined {
    return this.waiting.find((message) => requestOf(message) === request);
  }

  /** Own messages without an answer, in their order. */
  get waiting(): Message[] {
    const all = [...this.#byName.values()].flatMap(({ messages }) =>
      messages.filter(({ state }) => state === "waiting"),
    );
    return all.sort((a, b) => a.id - b.id);
  }

  /** Everything in a conversation is read. */
  markRead(name: string): void {
    const conversation = this.#of(name);
    const lastId = conversation.messages.at(-1)?.id ?? 0;
    if (conversation.unread === 0 && conversation.readId >= lastId) return;
    conversation.unread = 0;
    conversation.readId = lastId;
    this.#listener.read(name, lastId);
  }

  messages(name: string): readonly Message[] {
    return this.#byName.get(name)?.messages ?? [];
  }

  /** Messages of all conversations. */
  get count(): number {
    return this.#count;
  }

  /** Id of the last message that was read in a conversation. */
  readId(name: string): number {
    return this.#byName.get(name)?.readId ?? 0;
  }

  /** Conversations with messages, the one with the newest first; that with everybody is not among them. */
  get summaries(): Summary[] {
    const all = [...this.#byName.keys()].filter((name) => name !== EVERYBODY).map((name) => this.summary(name));
    return all.filter(({ last }) => last !== null).sort((a, b) => b.last!.id - a.last!.id);
  }

  summary(name: string): Summary {
    const conversation = this.#byName.get(name);
    return { name, last: conversation?.messages.at(-1) ?? null, unread: conversation?.unread ?? 0 };
  }

  /** Unread messages of all conversations. */
  get unread(): number {
    return [...this.#byName.values()].reduce((sum, { unread }) => sum + unread, 0);
  }

  #add(message: Message): Message {
    message.id = this.#lastId + 1;
    this.#insert(message);
    this.#listener.changed(message);
    this.#trim();
    return message;
  }

  #insert(message: Message): void {
    const conversation = this.#of(message.conversation);
    conversation.messages.push(message);
    if (message.state === null && message.id > conversation.readId) conversation.unread++;
    this.#lastId = Math.max(this.#lastId, message.id);
    this.#count++;
  }

  /** Drops the oldest messages above the limit, except those that wait. */
  #trim(): void {
    if (this.#count <= MESSAGES_MAX + MESSAGES_EXCESS_MAX) return;
    const all = [...this.#byName.values()].flatMap(({ messages }) => messages).sort((a, b) => a.id - b.id);
    const old = all.slice(0, this.#count - MESSAGES_MAX).filter(({ state }) => state !== "waiting");
    const ids = new Set(old.map(({ id }) => id));
    for (const conversation of this.#byName.values()) {
      conversation.messages = conversation.messages.filter(({ id }) => !ids.has(id));
      const { messages, readId } = conversation;
      conversation.unread = messages.filter(({ id, state }) => state === null && id > readId).length;
    }
    this.#count -= ids.size;
    this.#listener.removed([...ids]);
  }

  #of(name: string): Conversation {
    let conversation = this.#byName.get(name);
    if (conversation === undefined) {
      conversation = { messages: [], readId: 0, unread: 0 };
      this.#byName.set(name, conversation);
    }
    return conversation;
  }
}

/** The request that sends an own message. */
export function requestOf({ conversation, text }: Pick<Message, "conversation" | "text">): string {
  return conversation === EVERYBODY ? `broadcast ${text}` : `message ${conversation} ${text}`;
}
