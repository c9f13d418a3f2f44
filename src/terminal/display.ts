import { createColors } from "picocolors";
import { filterText } from "../display-filter.ts";
import { formatAddress } from "../runtime/host.ts";
import { type UserEvent, decode, encodeText } from "../client/event.ts";
import { explainGoodbye } from "./explanations.ts";

/**
 * What may be printed: texts of others without control characters, and events in words. Error codes and reasons in
 * words are in explanations.ts; how lines become rows is in rows.ts.
 */

declare const filtered: unique symbol;

/** A line that may be printed: only this file makes one, from text that is filtered. */
export type Printable = string & { readonly [filtered]: true };

/** Removes control characters and invisible characters from a text. */
export function printable(text: string): Printable {
  const shown = filterText(text);
  if (shown === text || shown.isWellFormed()) return shown as Printable;
  // Invalid bytes that the filter made neighbours may together be valid UTF-8, such as a control character.
  const bytes = encodeText(shown);
  return printable(decode(bytes, 0, bytes.length));
}

export function hasColors(output: NodeJS.WriteStream): boolean {
  return output.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== "dumb";
}

/** Whether the locale of the environment has UTF-8. Without any locale it is assumed: terminals have it. */
export function hasUtf8({ LC_ALL, LC_CTYPE, LANG }: Record<string, string | undefined>): boolean {
  const locale = LC_ALL || LC_CTYPE || LANG || "";
  return locale === "" || /utf-?8/i.test(locale);
}

/** The state of a text that this user sent, or of a stored one that arrived. */
export type Mark = "waiting" | "sent" | "stored" | "refused" | "unknown";
const SYMBOLS: Record<Mark, string> = {
  waiting: "\u2026",
  sent: "\u2713",
  stored: "\u2709",
  refused: "\u2717",
  unknown: "?",
};
const WORDS: Record<Mark, string> = {
  waiting: "(waiting)",
  sent: "(sent)",
  stored: "(stored)",
  refused: "(refused)",
  unknown: "(unknown)",
};

/** Turns events and results into printable lines, with or without colours. */
export class Display {
  /** What a command in a hint begins with: a slash while plain lines are not commands. */
  slash = "";
  readonly #colors: ReturnType<typeof createColors>;
  readonly #marks: Record<Mark, string>;
  /** The colours of names; red is for failures, and yellow for questions. */
  readonly #nameColors: ((text: string) => string)[];

  /** `hasSymbols`: the states of texts are symbols instead of words. */
  constructor(colored: boolean, hasSymbols = false) {
    this.#colors = createColors(colored);
    this.#marks = hasSymbols ? SYMBOLS : WORDS;
    const { green, blue, magenta, cyan, greenBright, blueBright, magentaBright, cyanBright } = this.#colors;
    this.#nameColors = [cyan, green, magenta, blue, cyanBright, greenBright, magentaBright, blueBright];
  }

  event(event: UserEvent): Printable {
    return this.#words(event) as Printable;
  }

  #words(event: UserEvent): string {
    const { dim, inverse, yellow } = this.#colors;
    const user = "user" in event ? printable(event.user) : "";
    const { slash } = this;
    switch (event.kind) {
      case "message":
        return `${this.#name(event.from)}: ${printable(event.text)}`;
      case "broadcast":
        return `${this.#name(event.from)} ${dim("to all")}: ${printable(event.text)}`;
      case "stored":
        return `${this.#name(event.from)} ${dim(`on ${time(event.unixMs)}`)}: ${printable(event.text)}`;
      case "joined":
        return dim(`* ${user} is here`);
      case "left":
        return dim(`* ${user} left (${printable(event.reason)})`);
      case "private":
        return `${inverse("[private]")} ${this.#name(event.from)}: ${printable(event.text)}`;
      case "asked":
        if (!event.encrypted)
          return yellow(`* ${user} asks for a private chat without encryption; this client refused it`);
        return yellow(`? ${user} asks for a private chat; answer with: ${slash}yes ${user}, or ${slash}no ${user}`);
      case "agreed":
        if (!event.encrypted)
          return yellow(`* ${user} agrees to a private chat without encryption; this client does not start it`);
        return yellow(
          `* ${user} agrees to a private chat: ${slash}private ${user} <text> sends directly to ${address(event)}`,
        );
      case "invited":
        return dim(`* ${user} can send you private messages now; answer with: ${slash}private ${user} <text>`);
      case "denied":
        return dim(`* ${user} refused the private chat, did not answer, or is not here`);
      case "parted":
        return dim(`* the private chat with ${user} has ended`);
      case "unreachable":
        return dim(`* ${user} cannot be reached directly; to send through the server: ${slash}message ${user} <text>`);
      case "impostor":
        return yellow(`* another program answers at the address of ${user}; nothing was sent to it`);
      case "notice":
        return yellow(`* notice of the operator: ${printable(event.text)}`);
      case "goodbye":
        return yellow(printable(explainGoodbye(event.reason, event.words)));
    }
  }

  /** A name in its colour, which is the same in every run. */
  #name(user: string): string {
    let hash = 0;
    for (const character of user) hash = (hash * 31 + character.codePointAt(0)!) >>> 0;
    return this.#nameColors[hash % this.#nameColors.length]!(this.#colors.bold(printable(user)));
  }

  /** A stored message on a screen whose lines begin with their time. */
  stored(from: string, text: string): Printable {
    return `${this.#colors.dim(this.#marks.stored)} ${this.#name(from)}: ${printable(text)}` as Printable;
  }

  /** A text of this user, in the form that its recipients see, with its state. */
  own(mark: Mark, recipient: string, text: string, isPrivate: boolean): Printable {
    const { dim, inverse, green, red } = this.#colors;
    const state = (mark === "refused" || mark === "unknown" ? red : mark === "sent" ? green : dim)(this.#marks[mark]);
    const kind = isPrivate ? `${inverse("[private]")} ` : "";
    const to = recipient === "all" ? dim("to all") : `${dim("to")} ${this.#name(recipient)}`;
    return `${state} ${kind}${to}: ${printable(text)}` as Printable;
  }

  /** A question for the user, or a warning. */
  question(text: string): Printable {
    return this.#colors.yellow(printable(text)) as Printable;
  }

  /** The result of a command, or another line of the program's own. */
  note(text: string): Printable {
    return this.#colors.dim(printable(text)) as Printable;
  }

  failure(text: string): Printable {
    return this.#colors.red(printable(text)) as Printable;
  }

  /** A line with the local time `HH:MM` before it. */
  timed(line: Printable, unixMs: number): Printable {
    return `${this.#colors.dim(time(unixMs).slice(-5))} ${line}` as Printable;
  }

  /** The line before the first one of a day, such as `-- Monday 2026-11-30 --`. */
  day(unixMs: number): Printable {
    const day = time(unixMs).slice(0, 10);
    const name = new Date(`${day}T12:00Z`).toLocaleDateString("en", { weekday: "long", timeZone: "UTC" });
    return this.note(`-- ${name} ${day} --`);
  }
}

function address({ host, port }: { host: string; port: number }): string {
  return formatAddress(printable(host), port);
}

/** A local time in the form 2026-11-22 21:58; "?" for a number that is not a time. */
export function time(unixMs: number): string {
  const local = new Date(unixMs - new Date(unixMs).getTimezoneOffset() * 60_000);
  return Number.isNaN(local.getTime()) ? "?" : local.toISOString().slice(0, 16).replace("T", " ");
}
