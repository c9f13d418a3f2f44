import { COMMANDS } from "./commands.ts";
import { LOCAL_COMMANDS, commandIn, slashWords } from "./parse.ts";
import type { People } from "./people.ts";

/** What Tab puts in place of the word before the cursor: each further Tab the next candidate. */

/** A line and the position of the cursor in it. */
export interface Edit {
  line: string;
  cursor: number;
}

/** The words that fit before the cursor, and where the typed word begins. */
export function candidates({ line, cursor }: Edit, people: People): { start: number; words: string[] } {
  const before = line.slice(0, cursor);
  const start = before.lastIndexOf(" ") + 1;
  const typed = before.slice(start);
  const isFirst = before.slice(0, start).trim() === "";
  const fits = (words: readonly string[]): string[] => words.filter((word) => word.startsWith(typed.toLowerCase()));
  if (isFirst && typed.startsWith("/")) {
    const words = slashWords(true).filter((word) => word.startsWith(typed.slice(1).toLowerCase()));
    return { start, words: words.map((word) => `/${word}`) };
  }
  const hasPartner = people.partner !== null;
  if (isFirst && !hasPartner) return { start, words: fits([...Object.keys(COMMANDS), "help"]) };
  const command = commandIn(before, hasPartner);
  const isSecond = before.trimStart().split(/ +/).length === 2;
  if (isSecond && command !== null && Object.hasOwn(LOCAL_COMMANDS, command.verb) && !command.takesUser)
    return { start, words: fits(LOCAL_COMMANDS[command.verb]!.choices) };
  const isName = isSecond && command?.takesUser === true;
  return { start, words: isName || typed !== "" ? people.complete(typed) : [] };
}

/** Completes a line, and steps through the candidates while nothing else is typed. */
export class Completion {
  readonly #people: People;
  /** The last completed line, and its candidates. */
  #last: (Edit & { start: number; end: string; words: string[]; index: number }) | null = null;

  constructor(people: People) {
    this.#people = people;
  }

  /** The line after a Tab; null when nothing fits. */
  next(edit: Edit): Edit | null {
    const last = this.#last;
    if (last !== null && last.line === edit.line && last.cursor === edit.cursor && last.words.length > 1)
      return this.#apply(edit.line.slice(0, last.start), last.words, (last.index + 1) % last.words.length, last.end);
    const { start, words } = candidates(edit, this.#people);
    if (words.length === 0) return null;
    return this.#apply(edit.line.slice(0, start), words, 0, edit.line.slice(edit.cursor));
  }

  #apply(before: string, words: string[], index: number, end: string): Edit {
    const completed = `${before}${words[index]} `;
    const rest = end.replace(/^ /, "");
    this.#last = { line: completed + rest, cursor: completed.length, start: before.length, end: rest, words, index };
    return this.#last;
  }
}
