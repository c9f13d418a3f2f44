import { COMMANDS, isUserName, usageOf } from "./commands.ts";

/**
 * What a typed line means: a command for the server, a command for this client, or a text for the partner. It decides
 * only; conversation.ts and script.ts act. With a partner only a line with a slash is a command, so that no habit makes
 * a command of a sentence, and a line that looks like a command without its slash is doubtful: it is not said at once.
 */

/** Commands of this client, which do not reach the server. They always have a slash, except `help`. */
export const LOCAL_COMMANDS: Record<string, { usage: string; help: string; choices: readonly string[] }> = {
  to: { usage: "to [<user>]", help: "what you type goes to that user, or is a command", choices: [] },
  r: { usage: "r <text>", help: "answers the user who wrote last", choices: [] },
  presence: {
    usage: "presence [off|brief|on]",
    help: "shows who comes and goes",
    choices: ["off", "brief", "on"],
  },
  bell: { usage: "bell [off|on]", help: "rings for messages to you while you look elsewhere", choices: ["off", "on"] },
  find: { usage: "find <words>", help: "searches what this client has logged or seen", choices: [] },
  help: {
    usage: "help [<page>]",
    help: "explains the commands",
    choices: ["talk", "people", "private", "screen", "all"],
  },
};

/** Other words for commands, with a slash. */
const ALIASES: Record<string, string> = {
  m: "message",
  msg: "message",
  all: "broadcast",
  who: "online",
  quit: "logout",
  exit: "logout",
  reply: "r",
};

/** Words with which a line begins that was perhaps meant as a command. Exactly those of the course's first clients. */
const SEED_WORDS = ["message", "broadcast", "online", "getaddress", "private", "block", "unblock", "logout"];

/** Why a text is asked about, and the command that may have been meant; empty for none. */
export interface Doubt {
  why: string;
  command: string;
}

/** How a line is read. */
export interface ParseContext {
  /** To whom plain lines go; null: plain lines are commands. */
  partner: string | null;
  /** Whether the commands of this client may be used; a script has only those of the server, and `help`. */
  hasLocal: boolean;
  /** The user who asks for a private chat, if only one does: `yes` and `no` need no name then. */
  asker: string | null;
  /** The name that a typed one means. */
  resolve: (typed: string) => string;
  /** Why a text for the partner should not be said at once; null: it may. */
  doubt: (text: string) => Doubt | null;
}

export type Parsed =
  | { kind: "nothing" }
  | { kind: "command"; verb: string; user: string; text: string }
  | { kind: "local"; verb: string; rest: string }
  | { kind: "say"; text: string }
  /** A text that is said when it is entered again. */
  | ({ kind: "doubt"; text: string } & Doubt)
  /** `code` is that of the server for such a request. */
  | { kind: "wrong"; code: "unknown_command" | "bad_request"; reason: string };

export function parse(line: string, context: ParseContext): Parsed {
  const trimmed = line.replace(/^[ \t]+/, "");
  if (trimmed.trimEnd() === "") return { kind: "nothing" };
  if (trimmed.startsWith("//")) {
    if (context.partner !== null) return { kind: "say", text: trimmed.slice(1) };
    return wrong("bad_request", "there is no partner to say that to; /to <user> chooses one");
  }
  const word = firstWord(trimmed);
  if (trimmed.startsWith("/")) return parseSlash(word.slice(1), trimmed, context);
  if (context.partner === null) return parseCommand(word, word, trimmed, context);
  const typed = word.toLowerCase();
  if (SEED_WORDS.includes(typed) || trimmed.trimEnd() === "help")
    return { kind: "doubt", text: line, why: `"${typed}" is also a command`, command: `/${typed}` };
  const doubt = context.doubt(line);
  return doubt === null ? { kind: "say", text: line } : { kind: "doubt", text: line, ...doubt };
}

function parseSlash(typed: string, trimmed: string, context: ParseContext): Parsed {
  const found = find(typed.toLowerCase(), context.hasLocal);
  if (typed === "" || found.length === 0) {
    const near = typed === "" ? null : nearest(typed.toLowerCase(), slashWords(context.hasLocal));
    const hint = near === null ? "/help lists the commands" : `did you mean /${near}?`;
    const say = context.partner === null ? "" : `; / twice says it to ${context.partner}`;
    return wrong("unknown_command", `there is no command /${typed}; ${hint}${say}`);
  }
  if (found.length > 1) {
    const all = found.map((verb) => `/${verb}`).sort();
    return wrong("unknown_command", `/${typed} can be ${all.slice(0, -1).join(", ")} or ${all.at(-1)}`);
  }
  return parseCommand(found[0]!, `/${found[0]}`, trimmed, context);
}

/** `verb`: the full word of a command; `shown`: how a hint shows it. */
function parseCommand(verb: string, shown: string, trimmed: string, context: ParseContext): Parsed {
  const hasSlash = shown.startsWith("/");
  if (verb === "help" || (context.hasLocal && hasSlash && Object.hasOwn(LOCAL_COMMANDS, verb)))
    return { kind: "local", verb, rest: textAfter(trimmed) };
  const command = Object.hasOwn(COMMANDS, verb) ? COMMANDS[verb]! : null;
  if (command === null) {
    const near = nearest(verb.toLowerCase(), Object.keys(COMMANDS));
    const hint = near === null ? "help lists the commands" : `did you mean ${near}?`;
    return wrong("unknown_command", `there is no command ${verb}; ${hint}`);
  }
  const takesUser = command.parameters.includes("user");
  const rest = textAfter(trimmed);
  const isAnswer = rest === "" && (verb === "yes" || verb === "no");
  const typed = !takesUser ? "" : isAnswer ? (context.asker ?? "") : firstWord(rest);
  const text = takesUser ? textAfter(rest) : rest;
  if (typed !== "" && !isUserName(typed)) return wrong("bad_request", `${typed} cannot be a user name`);
  if ((takesUser && typed === "") || (text !== "") !== command.parameters.includes("text"))
    return wrong("bad_request", `usage: ${usageOf(shown, command)}`);
  return { kind: "command", verb, user: takesUser ? context.resolve(typed) : "", text };
}

function wrong(code: "unknown_command" | "bad_request", reason: string): Parsed {
  return { kind: "wrong", code, reason };
}

/** The words that a slash may be followed by. */
export function slashWords(hasLocal: boolean): string[] {
  const all = [...Object.keys(COMMANDS), ...Object.keys(LOCAL_COMMANDS), ...Object.keys(ALIASES)];
  return hasLocal ? all : all.filter((word) => !Object.hasOwn(LOCAL_COMMANDS, word) || word === "help");
}

/** The commands that a word or the beginning of one means. An exact word means one. */
function find(typed: string, hasLocal: boolean): string[] {
  const words = slashWords(hasLocal);
  const matches = words.includes(typed) ? [typed] : words.filter((word) => word.startsWith(typed));
  return [...new Set(matches.map((word) => (Object.hasOwn(ALIASES, word) ? ALIASES[word]! : word)))];
}

/** The word that differs least from a mistyped one; null when none is similar. */
function nearest(typed: string, words: readonly string[]): string | null {
  const limit = typed.length < 5 ? 1 : 2;
  const byDistance = words.map((word) => ({ word, distance: distance(typed, word) }));
  const [best] = byDistance.sort((a, b) => a.distance - b.distance);
  return best !== undefined && best.distance <= limit ? best.word : null;
}

/** The number of letters to insert, remove, replace or swap with a neighbour (optimal string alignment). */
function distance(a: string, b: string): number {
  if (Math.abs(a.length - b.length) > 2) return Number.POSITIVE_INFINITY;
  const rows = [Array.from({ length: b.length + 1 }, (_, column) => column)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = rows[i - 1]![j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      row[j] = Math.min(rows[i - 1]![j]! + 1, row[j - 1]! + 1, replaced);
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (isSwap) row[j] = Math.min(row[j]!, rows[i - 2]![j - 2]! + 1);
    }
    rows.push(row);
  }
  return rows[a.length]![b.length]!;
}

/** The command that completion and hints see in a line; null for none. */
export function commandIn(line: string, hasPartner: boolean): { verb: string; takesUser: boolean } | null {
  const word = firstWord(line.replace(/^[ \t]+/, ""));
  if (!word.startsWith("/") && hasPartner) return null;
  const verbs = word.startsWith("/") ? find(word.slice(1).toLowerCase(), true) : [word];
  const verb = verbs.length === 1 ? verbs[0]! : "";
  if (Object.hasOwn(COMMANDS, verb)) return { verb, takesUser: COMMANDS[verb]!.parameters.includes("user") };
  return word.startsWith("/") && Object.hasOwn(LOCAL_COMMANDS, verb) ? { verb, takesUser: verb === "to" } : null;
}

function firstWord(text: string): string {
  return /^[^ \t]*/.exec(text)![0];
}

/**
 * The rest of a line after its first word, with the spaces inside and at its end. Only spaces and tabs separate words:
 * other white space of Unicode may be part of a text.
 */
function textAfter(line: string): string {
  return line.replace(/^[^ \t]+[ \t]*/, "");
}
