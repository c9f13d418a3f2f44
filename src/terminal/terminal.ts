import type { ChatClient, ChatError, ChatEvent } from "../client/client.ts";
import { COMMANDS, HELP_LINES, commandOf, isUserName, usageOf } from "./commands.ts";
import { type Display, type Printable, printable } from "./display.ts";
import { explainError } from "./explanations.ts";

/** Where lines for the user go: a screen, or standard output and standard error. */
export interface Output {
  /** Resolves when the kernel took the line. */
  print(line: Printable): Promise<void>;
  fail(line: Printable): void;
}

/** Turns typed lines into requests, and replies and events into printed lines. It uses no readline and no socket. */
export class Terminal {
  readonly #client: ChatClient;
  readonly #output: Output;
  readonly #display: Display;
  /** Names that were seen, for completion. */
  readonly #names = new Set<string>();
  /** Lines that arrived before `start`; null from then on. */
  #early: { line: Printable; resolve: (printed: Promise<void>) => void }[] | null = [];

  constructor(client: ChatClient, output: Output, display: Display) {
    this.#client = client;
    this.#output = output;
    this.#display = display;
  }

  /** Prints the events so far, and from now on each one at once. The first may arrive together with the login reply. */
  start(): void {
    const early = this.#early ?? [];
    this.#early = null;
    for (const { line, resolve } of early) resolve(this.#output.print(line));
  }

  #show(line: Printable): Promise<void> {
    const early = this.#early;
    if (early === null) return this.#output.print(line);
    return new Promise((resolve) => early.push({ line, resolve }));
  }

  /** Prints an event; resolves when the kernel took the line. */
  showEvent(event: ChatEvent): Promise<void> {
    const name = "from" in event ? event.from : "user" in event ? event.user : "";
    if (isUserName(name)) this.#names.add(name);
    return this.#show(this.#display.event(event));
  }

  /** Prints the outcome of a request that an earlier run of this program left without a reply. */
  showRecovered(request: string, error: ChatError | null): void {
    const isUnknown = error !== null && ["unknown_outcome", "closed"].includes(error.code);
    const outcome = isUnknown
      ? "the reply was lost; it may or may not have been carried out"
      : "sent again: the server had not received it";
    const refusal = error === null || isUnknown ? "" : `; ${explainError(error, request.split(" ")[1] ?? "")}`;
    void this.#show(this.#display.note(`from the last run: ${request} (${outcome}${refusal})`));
  }

  /** Carries out one typed line; resolves when the outcome is printed. */
  async run(line: string): Promise<void> {
    const [verb = "", ...words] = line.split(/[ \t]+/).filter((word) => word !== "");
    if (verb === "") return;
    if (verb === "help") return HELP_LINES.forEach((row) => this.#output.print(printable(row)));
    const command = commandOf(verb);
    if (command === null) return this.#fail(`there is no command ${verb}; help lists the commands`);
    const takesUser = command.parameters.includes("user");
    const user = (takesUser ? words[0] : undefined) ?? "";
    const text = textAfter(line, takesUser ? 2 : 1);
    if (user !== "" && !isUserName(user)) return this.#fail(`${user} cannot be a user name`);
    if ((takesUser && user === "") || (text !== "") !== command.parameters.includes("text")) {
      return this.#fail(`usage: ${usageOf(verb, command)}`);
    }
    try {
      const outcome = await command.run(this.#client, user, text);
      if (takesUser) this.#names.add(user);
      if (outcome !== "") await this.#output.print(this.#display.note(outcome));
    } catch (error) {
      this.#fail(explainError(error, user));
    }
  }

  #fail(text: string): void {
    this.#output.fail(this.#display.failure(text));
  }

  /** A completer for readline: the words that fit at the end of the line, and the part of them that is typed. */
  complete(line: string): [words: string[], typed: string] {
    const typed = line.slice(line.lastIndexOf(" ") + 1);
    const words = line.trimStart().split(" ");
    const takesUser = words.length === 2 && commandOf(words[0]!)?.parameters.includes("user") === true;
    const known = words.length === 1 ? [...Object.keys(COMMANDS), "help"] : takesUser ? [...this.#names].sort() : [];
    return [known.filter((word) => word.startsWith(typed)).map((word) => `${word} `), typed];
  }
}

/**
 * The rest of a line after its first words, with the spaces inside and at its end. Only spaces and tabs separate words:
 * other white space of Unicode may be part of a text.
 */
function textAfter(line: string, words: number): string {
  return line.replace(/^[ \t]+/, "").replace(new RegExp(`^([^ \\t]+([ \\t]+|$)){${words}}`), "");
}
