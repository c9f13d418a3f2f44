import { appendFileSync, mkdirSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { printable, time } from "./display.ts";
import type { Entry } from "./transcript.ts";

/**
 * The texts of this user's chats, on the disk of this user: one file for each partner and day, with mode 0600, one line
 * for each text. Only with `--log`. Lines have the form `21:58:03 <from>: <text>`.
 */

/** What the file of the broadcasts has in place of a name: no user name begins so. */
const BROADCASTS = "_all";
/** Lines that a search prints. */
const FOUND_MAX = 20;
const FILE = /^(.+)\.(\d{4}-\d\d-\d\d)\.log$/;
const LINE = /^(\d\d:\d\d:\d\d) ([^ :]+): (.*)$/;

/** A text that was found. `when` is its local day and time. */
export interface Found {
  when: string;
  partner: string;
  from: string;
  text: string;
}

export class ChatLog {
  readonly #folder: string;
  readonly #onError: (why: string) => void;
  #hasError = false;

  /** Creates the folder; throws the system's error when it cannot be used. `onError`: the first text is not logged. */
  constructor(folder: string, onError: (why: string) => void) {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    readdirSync(folder);
    this.#folder = folder;
    this.#onError = onError;
  }

  add({ unixMs, partner, from, text }: Entry): void {
    const [day = "", minute = ""] = time(unixMs).split(" ");
    if (minute === "") return; // A time that is none, from a hostile server.
    const second = String(new Date(unixMs).getSeconds()).padStart(2, "0");
    const file = join(this.#folder, `${partner === "all" ? BROADCASTS : partner}.${day}.log`);
    const line = `${minute}:${second} ${from}: ${printable(text).toWellFormed()}\n`;
    try {
      appendFileSync(file, line, { mode: 0o600 });
    } catch (error) {
      if (!this.#hasError) this.#onError((error as Error).message);
      this.#hasError = true;
    }
  }

  /** The last texts that have all words, in any case; the oldest first. */
  find(words: readonly string[], countMax: number): Found[] {
    const files = readdirSync(this.#folder).flatMap((name) => {
      const [, partner, day] = FILE.exec(name) ?? [];
      return partner === undefined ? [] : [{ name, partner, day: day! }];
    });
    files.sort((a, b) => (a.day === b.day ? (a.name < b.name ? 1 : -1) : a.day < b.day ? 1 : -1));
    const found: Found[] = [];
    for (let at = 0; at < files.length && found.length < countMax;) {
      // All files of a day: the texts of different partners are in the order of their times.
      const { day } = files[at]!;
      const ofDay: Found[] = [];
      for (; files[at]?.day === day; at++) ofDay.push(...this.#findIn(files[at]!, words));
      ofDay.sort((a, b) => (a.when < b.when ? -1 : a.when > b.when ? 1 : 0));
      found.unshift(...ofDay.slice(-(countMax - found.length)));
    }
    return found;
  }

  #findIn({ name, partner, day }: { name: string; partner: string; day: string }, words: readonly string[]): Found[] {
    const lines = readFileSync(join(this.#folder, name), "utf8").split("\n");
    return lines.flatMap((line) => {
      if (!hasWords(line, words)) return [];
      const [, second, from, text] = LINE.exec(line) ?? [];
      if (text === undefined || !hasWords(`${from} ${text}`, words)) return [];
      const user = partner === BROADCASTS ? "all" : partner;
      return [{ when: `${day} ${second!.slice(0, 5)}`, partner: user, from: from!, text }];
    });
  }
}

/** Whether a text has all words, in any case. */
function hasWords(text: string, words: readonly string[]): boolean {
  const lower = text.toLowerCase();
  return words.every((word) => lower.includes(word.toLowerCase()));
}

/** The last texts that have all words, as lines; from the log, or from those of this run when nothing is logged. */
export function findTexts(words: string[], log: ChatLog | null, seen: readonly Entry[], user: string): string[] {
  const inRun = seen.filter(({ from, text }) => hasWords(`${from} ${text}`, words)).slice(-FOUND_MAX);
  const found = log?.find(words, FOUND_MAX) ?? inRun.map((entry) => ({ ...entry, when: time(entry.unixMs) }));
  return found.map(({ when, partner, from, text }) => {
    const to = partner === "all" ? " to all" : from === user ? ` to ${partner}` : "";
    return `${when} ${from}${to}: ${text}`;
  });
}
