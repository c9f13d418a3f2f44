import type { UserEvent } from "../client/client.ts";
import type { Attention } from "./attention.ts";
import type { ChatLog } from "./chat-log.ts";
import { isUserName } from "./commands.ts";
import type { Display, Printable } from "./display.ts";
import type { People } from "./people.ts";
import type { PresenceLines } from "./presence.ts";
import type { Questions } from "./questions.ts";
import type { Entry, TimedLine, Transcript } from "./transcript.ts";

/**
 * The events of a session on the screen of a person. Events that arrive together are printed together, in the
 * `setImmediate` after them: a flood redraws the prompt once for many lines, and a text of this user whose reply came
 * in the same bytes as the answer to it is printed before the answer.
 */

/** What the events change besides the screen. */
export interface IncomingParts {
  transcript: Transcript;
  display: Display;
  people: People;
  presence: PresenceLines;
  attention: Attention;
  questions: Questions;
  /** Null: nothing is logged. */
  log: ChatLog | null;
}

export class Incoming {
  /** Messages so far, and of those that waited at the server, how many each user sent. */
  messages = 0;
  readonly stored = new Map<string, number>();
  readonly #parts: IncomingParts;
  #events: { event: UserEvent; resolve: (printed: Promise<void>) => void }[] = [];
  #hasStarted = false;
  #isScheduled = false;
  /** Lines of the events that are being printed; null outside. */
  #lines: TimedLine[] | null = null;

  constructor(parts: IncomingParts) {
    this.#parts = parts;
  }

  /** Prints the events so far, and from now on each one. The first may arrive together with the login reply. */
  start(): void {
    this.#hasStarted = true;
    this.#print();
  }

  /** Prints an event; resolves when the kernel took its line. */
  event(event: UserEvent): Promise<void> {
    return new Promise((resolve) => {
      this.#events.push({ event, resolve });
      if (!this.#hasStarted || this.#isScheduled) return;
      this.#isScheduled = true;
      setImmediate(() => this.#print());
    });
  }

  /** Prints the events so far now, if one of them is a message that waited. */
  printStored(): void {
    if (this.#events.some(({ event }) => event.kind === "stored")) this.#print();
  }

  /** Prints a line in the order of the events. */
  note(line: Printable): void {
    if (this.#lines === null) void this.#parts.transcript.printNow([line]);
    else this.#lines.push({ line, unixMs: Date.now() });
  }

  #print(): void {
    this.#isScheduled = false;
    const events = this.#events;
    if (events.length === 0) return;
    this.#events = [];
    const lines: TimedLine[] = (this.#lines = []);
    let [calls, caller] = [0, ""];
    for (const { event } of events) {
      const user = this.#take(event);
      if (user === "") continue;
      calls++;
      caller = user;
    }
    this.#lines = null;
    const control = calls > 0 ? this.#parts.attention.call(calls, caller) : "";
    const printed = lines.length > 0 ? this.#parts.transcript.print(lines, control) : Promise.resolve();
    for (const { resolve } of events) resolve(printed);
  }

  /** Adds the lines of an event. Returns the user who writes to this one or asks; empty for other events. */
  #take(event: UserEvent): string {
    const { display, people, presence, questions } = this.#parts;
    const nowMs = Date.now();
    switch (event.kind) {
      case "message":
      case "private":
        return this.#message(event, display.event(event), nowMs);
      case "stored":
        this.stored.set(event.from, (this.stored.get(event.from) ?? 0) + 1);
        return this.#message(event, display.stored(event.from, event.text), event.unixMs);
      case "broadcast":
        this.#mark();
        this.#keep({ unixMs: nowMs, partner: "all", from: event.from, text: event.text });
        this.#lines!.push({ line: display.event(event), unixMs: nowMs });
        return "";
      case "joined":
      case "left": {
        const { user } = event;
        if (!isUserName(user)) return "";
        if (event.kind === "joined") people.joined(user);
        else people.left(user);
        if (event.kind === "left") questions.closed(user);
        presence.changed(
          user,
          event.kind === "left" ? event.reason : null,
          people.hasTalkedWith(user),
          people.onlineCount,
        );
        return "";
      }
      case "asked":
        this.#mark();
        if (event.encrypted && isUserName(event.user)) questions.asked(event.user);
        else this.#lines!.push({ line: display.event(event), unixMs: nowMs });
        return isUserName(event.user) ? event.user : "";
      default:
        this.#lines!.push({ line: display.event(event), unixMs: nowMs });
        return "";
    }
  }

  #message(
    { kind, from, text }: { kind: string; from: string; text: string },
    line: Printable,
    unixMs: number,
  ): string {
    this.messages++;
    this.#mark();
    if (isUserName(from)) this.#parts.people.wrote(from, kind === "private");
    // The text of a private chat is not kept: nobody but the two users has it.
    if (kind !== "private") this.#keep({ unixMs, partner: from, from, text });
    this.#lines!.push({ line, unixMs });
    return isUserName(from) ? from : "";
  }

  /** The mark where the user stopped reading. */
  #mark(): void {
    if (this.#parts.attention.takeMark(performance.now()))
      this.#lines!.push({ line: this.#parts.display.note("---- unread ----"), unixMs: null });
  }

  #keep(entry: Entry): void {
    if (!isUserName(entry.from)) return;
    this.#parts.transcript.remember(entry);
    this.#parts.log?.add(entry);
  }
}
