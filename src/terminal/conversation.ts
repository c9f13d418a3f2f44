import type { ChatClient } from "../client/client.ts";
import type { Attention } from "./attention.ts";
import type { ChatLog } from "./chat-log.ts";
import { COMMANDS, isUserName } from "./commands.ts";
import { type Edit, Completion } from "./completion.ts";
import type { Display } from "./display.ts";
import { explainError } from "./explanations.ts";
import type { Outgoing } from "./outgoing.ts";
import { type Doubt, type Parsed, parse } from "./parse.ts";
import type { People } from "./people.ts";
import type { PresenceLines } from "./presence.ts";
import type { Questions } from "./questions.ts";
import type { LineFate, PromptHandlers } from "./screen.ts";
import type { Transcript } from "./transcript.ts";

/** What a conversation needs of the screen. */
export interface Editor {
  edit: Edit;
  readonly columns: number;
  setPrompt(prompt: string): void;
  writeControl(sequence: string): void;
}

export interface ConversationParts {
  client: ChatClient;
  editor: Editor;
  transcript: Transcript;
  display: Display;
  people: People;
  presence: PresenceLines;
  attention: Attention;
  questions: Questions;
  outgoing: Outgoing;
  log: ChatLog | null;
  user: string;
  password: string;
  /** Keeps a typed line for later runs. */
  remember: (line: string) => void;
  leave: () => void;
}

/**
 * What a person does at the prompt: says texts, gives commands, pastes. Its rule is that nothing reaches others by
 * habit or by accident: a doubtful line and several pasted lines are asked about first. No pasted line is a command.
 */
export class Conversation implements PromptHandlers {
  readonly #parts: ConversationParts;
  readonly #completion: Completion;
  /** The doubtful line that is said, or carried out, when it is entered again; empty for none. */
  #doubted = "";
  /** Whether the typed line begins with pasted text. */
  #beginsPasted = false;
  /** Pasted lines that are asked about, and the line that was typed before; null for none. */
  #pasted: { lines: string[]; before: Edit } | null = null;
  /** Shown before the partner, such as `(lost) `. */
  #status = "";
  /** Whether the next Ctrl+C leaves with requests that have no reply. */
  #isLeaving = false;

  constructor(parts: ConversationParts) {
    this.#parts = parts;
    this.#completion = new Completion(parts.people);
  }

  set status(status: string) {
    this.#status = status;
    this.showPrompt();
  }

  showPrompt(): void {
    const { partner } = this.#parts.people;
    this.#parts.display.slash = partner === null ? "" : "/";
    const question = `${this.#pasted?.lines.length} lines to ${partner}? Enter sends, Esc discards `;
    this.#parts.editor.setPrompt(this.#pasted === null ? `${this.#status}${partner ?? ""}> ` : question);
  }

  line(line: string): LineFate {
    const { partner } = this.#parts.people;
    if (this.#pasted !== null) return this.#sayPasted();
    const parsed = this.#parse(line);
    const why = this.#whyDoubtful(parsed);
    if (why !== "" && line !== this.#doubted) {
      this.#doubted = line;
      this.#parts.transcript.question(why);
      return "hold";
    }
    this.#doubted = "";
    this.#beginsPasted = false;
    const isPrivate = parsed.kind === "command" && parsed.verb === "private";
    if (!isPrivate && !this.#hasPassword(line)) this.#parts.remember(line);
    switch (parsed.kind) {
      case "nothing":
        return "erase";
      case "say":
      case "doubt":
        this.#say("message", partner!, parsed.text);
        return "erase";
      case "wrong":
        this.#parts.transcript.failure(parsed.reason);
        return "keep";
      case "local":
        return this.#runLocal(parsed.verb, parsed.rest);
      case "command":
        if (parsed.text !== "") {
          this.#say(parsed.verb, parsed.verb === "broadcast" ? "all" : parsed.user, parsed.text);
          return "erase";
        }
        void this.#run(parsed.verb, parsed.user);
        return "keep";
    }
  }

  /** The question about a line; empty when there is none. */
  #whyDoubtful(parsed: Parsed): string {
    const { partner } = this.#parts.people;
    if (parsed.kind === "doubt") {
      const command = parsed.command === "" ? " discards it" : `, or ${parsed.command}`;
      return `${parsed.why}. Enter again says it to ${partner}, Esc${command}`;
    }
    const isCommand = parsed.kind === "command" || parsed.kind === "local";
    if (!isCommand || !this.#beginsPasted) return "";
    return "a pasted line is a command here. Enter again carries it out, Esc discards it";
  }

  #parse(line: string): Parsed {
    const { people, questions } = this.#parts;
    const [asker = null, ...others] = questions.users;
    return parse(line, {
      partner: people.partner,
      hasLocal: true,
      asker: others.length === 0 ? asker : null,
      resolve: (typed) => people.resolve(typed),
      doubt: (text) => this.#doubt(text),
    });
  }

  /** Why a text should not be said at once. */
  #doubt(text: string): Doubt | null {
    if (this.#hasPassword(text)) return { why: "this line contains your password", command: "" };
    const [answer = "", user = "", ...more] = text.trim().split(/[ \t]+/);
    if (more.length > 0 || !["yes", "no"].includes(answer)) return null;
    if (!this.#parts.questions.users.includes(this.#parts.people.resolve(user))) return null;
    return { why: `${user} asks for a private chat`, command: `/${answer} ${user}` };
  }

  #hasPassword(line: string): boolean {
    const { password } = this.#parts;
    return line.split(/[ \t]+/).some((word) => word === password);
  }

  /** Sends a text, which the screen then shows with its state. */
  #say(verb: string, recipient: string, text: string): void {
    const { client, outgoing, people, transcript, log, user } = this.#parts;
    if (recipient !== "all") people.talkedWith(recipient);
    const isPrivate = verb === "private";
    const request = COMMANDS[verb]!.run(client, recipient, text);
    void outgoing.say({ recipient, text, isPrivate }, request).then((result) => {
      if (result === null || isPrivate) return;
      const entry = { unixMs: Date.now(), partner: recipient, from: user, text };
      transcript.remember(entry);
      log?.add(entry);
    });
  }

  /** Carries out a command without a text. */
  async #run(verb: string, user: string): Promise<void> {
    const { client, outgoing, people, questions, transcript, display } = this.#parts;
    try {
      const { note, fields } = await outgoing.track(COMMANDS[verb]!.run(client, user, ""));
      if (verb === "yes" || verb === "no") questions.closed(user);
      if (verb === "online") people.setOnline((fields!.users as string[]).filter(isUserName));
      if (note !== "") transcript.note(note);
    } catch (error) {
      transcript.failure(explainError(error, user, display.slash));
    }
  }

  #runLocal(verb: string, rest: string): LineFate {
    if (verb === "to") return this.#to(rest.trim());
    if (verb === "r") return this.#reply(rest);
    // Loaded when it is first needed: a start is faster.
    void import("./local-commands.ts").then((local) =>
      local.runLocal(verb, rest, this.#parts.editor.columns, this.#parts),
    );
    return "keep";
  }

  #refuse(why: string): LineFate {
    this.#parts.transcript.failure(why);
    return "keep";
  }

  #to(name: string): LineFate {
    const { people, transcript } = this.#parts;
    if (name !== "" && !isUserName(name)) return this.#refuse(`${name} cannot be a user name; usage: /to <user>`);
    const partner = name === "" ? null : people.resolve(name);
    this.#setPartner(partner);
    if (partner === null) return "erase";
    if (!people.isKnown(partner)) transcript.note(`${partner} has not been here since you are`);
    people.talkedWith(partner);
    return "erase";
  }

  #setPartner(partner: string | null): void {
    this.#parts.people.partner = partner;
    this.#doubted = "";
    this.showPrompt();
  }

  #reply(text: string): LineFate {
    const { lastSender } = this.#parts.people;
    if (lastSender === null) return this.#refuse("nobody has written to you yet");
    if (text === "") return this.#refuse("usage: /r <text>");
    this.#say(lastSender.isPrivate ? "private" : "message", lastSender.user, text);
    return "erase";
  }

  paste(text: string, isMarked: boolean): string {
    const { people, transcript, editor } = this.#parts;
    const before = editor.edit;
    const all = `${before.line.slice(0, before.cursor)}${text}${before.line.slice(before.cursor)}`;
    const lines = (this.#pasted === null ? all : text).split(/\r\n|\r|\n/).filter((line) => line.trim() !== "");
    if (this.#pasted !== null) {
      this.#pasted.lines = this.#pasted.lines.concat(lines);
      this.showPrompt();
      return "";
    }
    if (lines.length < 2 && isMarked) {
      const inserted = text.replace(/^[\r\n]+|[\r\n]+$/g, "");
      if (before.line.slice(0, before.cursor).trim() === "") this.#beginsPasted ||= inserted.trim() !== "";
      return inserted;
    }
    // A burst began in the line that is in the editor.
    const draft = isMarked ? before : { line: "", cursor: 0 };
    editor.edit = { line: "", cursor: 0 };
    if (lines.length < 2) return lines.join("");
    if (!isMarked && this.#runTyped(all)) return "";
    if (people.partner !== null) {
      this.#pasted = { lines, before: draft };
      this.showPrompt();
      return "";
    }
    editor.edit = draft;
    transcript.failure(
      `${lines.length} pasted lines were dropped: without a partner they would be commands; /to <user> chooses one`,
    );
    return "";
  }

  /**
   * Lines that were typed faster than they were read, and not pasted: each one is a valid command. (A text of which
   * every line is one was written as commands.) Carries them out; what follows the last line end stays in the editor.
   */
  #runTyped(text: string): boolean {
    const lines = text.split(/\r\n|\r|\n/);
    const rest = lines.pop()!;
    const isTyped = lines.every((line) => {
      const parsed = this.#parse(line);
      return parsed.kind === "local" || (parsed.kind === "command" && parsed.verb !== "logout");
    });
    if (!isTyped) return false;
    for (const line of lines) this.line(line);
    this.#parts.editor.edit = { line: rest, cursor: rest.length };
    return true;
  }

  #sayPasted(): LineFate {
    const { lines } = this.#pasted!;
    const { partner } = this.#parts.people;
    this.#pasted = null;
    for (const line of lines) this.#say("message", partner!, line.replace(/[^\P{Cc}\t]/gu, ""));
    this.showPrompt();
    return "erase";
  }

  #discardPasted(line = this.#pasted!.before): void {
    const { lines } = this.#pasted!;
    this.#pasted = null;
    this.showPrompt();
    this.#parts.editor.edit = line;
    this.#parts.transcript.note(`${lines.length} pasted lines were discarded`);
  }

  tab(): void {
    const { people, editor, transcript } = this.#parts;
    if (this.#pasted !== null) return;
    const { edit } = editor;
    if (edit.line === "") {
      const next = people.nextPartner();
      if (next === null) transcript.note("there is nobody to talk with yet; /to <user> chooses a partner");
      else this.#setPartner(next); // The order of the recent partners stays: the next Tab goes on in it.
      return;
    }
    const completed = this.#completion.next(edit);
    if (completed !== null) editor.edit = completed;
  }

  escape(): void {
    if (this.#pasted !== null) return this.#discardPasted();
    if (this.#doubted === "") return;
    this.#doubted = "";
    this.#parts.editor.edit = { line: "", cursor: 0 };
  }

  interrupt(): void {
    if (this.#pasted !== null) return this.#discardPasted();
    this.#doubted = "";
    if (this.#parts.editor.edit.line === "") return this.end();
    this.#parts.editor.edit = { line: "", cursor: 0 };
  }

  end(): void {
    const { outgoing, transcript, leave } = this.#parts;
    const { count } = outgoing;
    if (this.#pasted !== null) return this.#discardPasted();
    if (count === 0 || this.#isLeaving) return leave();
    this.#isLeaving = true;
    const what = count === 1 ? "1 line has no reply yet: it is" : `${count} lines have no reply yet: they are`;
    transcript.question(`${what} saved, and sent at the next login unless the server has it; Ctrl+C again leaves`);
  }

  focus(hasFocus: boolean): void {
    this.#parts.editor.writeControl(this.#parts.attention.focus(hasFocus, performance.now()));
  }

  key(): void {
    const { editor, attention, people } = this.#parts;
    editor.writeControl(attention.seen(performance.now()));
    this.#isLeaving = false;
    const { edit } = editor;
    if (edit.line === "") this.#beginsPasted = false;
    if (this.#pasted !== null && edit.line !== "") return this.#discardPasted(edit);
    // Shows at once to whom the answer goes: somebody else may write before it is complete.
    if (!/^\/(r|reply) $/i.test(edit.line) || people.lastSender === null) return;
    const { user, isPrivate } = people.lastSender;
    const line = `/${isPrivate ? "private" : "msg"} ${user} `;
    editor.edit = { line, cursor: line.length };
  }
}
