import { isIPv6 } from "node:net";
import { everyAddress } from "../runtime/host.ts";
import { isName } from "../protocol/ascii.ts";
import { ChatClient, ChatError, type ChatEvent } from "../client/client.ts";
import { type Display, type Printable, printable } from "./display.ts";

/** Who is asked, and where answers go: a screen, or a pipe. */
export interface Output {
  /** Resolves when the kernel took the line. */
  print(line: Printable): Promise<void>;
  fail(line: Printable): void;
}

interface Command {
  usage: string;
  help: string;
  /** How many of its words are names; what follows them is text. */
  names: 0 | 1;
  text: boolean;
  /** Returns what to tell the user, if anything. */
  run: (client: ChatClient, user: string, text: string) => Promise<string>;
}

/** Refusals of a private message, behind which the text can be sent through the server. */
const UNSAID = ["gone", "denied"];

/** The words of the terminal. They read like the protocol's, since `nc` users should feel at home. */
const COMMANDS: Record<string, Command> = {
  message: {
    usage: "message <user> <text>",
    help: "says something to one user, now or when they come back",
    names: 1,
    text: true,
    run: async (client, user, text) => {
      return (await client.message(user, text)) === "sent" ? `sent to ${user}` : `stored for ${user}, who is not here`;
    },
  },
  broadcast: {
    usage: "broadcast <text>",
    help: "says something to everybody who is here",
    names: 0,
    text: true,
    run: async (client, _user, text) => {
      const count = await client.broadcast(text);
      return count === 1 ? "sent to 1 user" : `sent to ${count} users`;
    },
  },
  online: {
    usage: "online",
    help: "lists who is here",
    names: 0,
    text: false,
    run: async (client) => {
      const { names, more } = await client.online();
      if (names.length === 0) return "nobody else is here";
      return `here: ${names.join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
    },
  },
  block: {
    usage: "block <user>",
    help: "stops messages from a user, who no longer sees you",
    names: 1,
    text: false,
    run: async (client, user) => {
      await client.block(user);
      return `${user} is blocked`;
    },
  },
  unblock: {
    usage: "unblock <user>",
    help: "ends the block",
    names: 1,
    text: false,
    run: async (client, user) => {
      await client.unblock(user);
      return `${user} is not blocked any more`;
    },
  },
  getaddress: {
    usage: "getaddress <user>",
    help: "asks a user to chat privately, from machine to machine",
    names: 1,
    text: false,
    run: async (client, user) => {
      await client.getAddress(user);
      return `${user} has been asked`;
    },
  },
  yes: {
    usage: "yes <user>",
    help: "agrees to chat privately with who asked; they get your address",
    names: 1,
    text: false,
    run: async (client, user) => {
      await client.answer(user, true);
      return "";
    },
  },
  no: {
    usage: "no <user>",
    help: "refuses that",
    names: 1,
    text: false,
    run: async (client, user) => {
      await client.answer(user, false);
      return `${user} was told no`;
    },
  },
  private: {
    usage: "private <user> <text>",
    help: "says something directly, encrypted, past the server",
    names: 1,
    text: true,
    run: async (client, user, text) => {
      await client.private(user, text).catch((error: unknown) => {
        if (error instanceof ChatError && UNSAID.includes(error.code)) throw new ChatError(error.code, text);
        throw error;
      });
      return `sent privately to ${user}`;
    },
  },
  verify: {
    usage: "verify <user>",
    help: "a number to compare aloud: alike, or somebody listens",
    names: 1,
    text: false,
    run: async (client, user) => `safety number with ${user}: ${client.safetyNumber(user)}`,
  },
  logout: {
    usage: "logout",
    help: "leaves; so does Ctrl+C",
    names: 0,
    text: false,
    run: async (client) => {
      await client.logout();
      return "";
    },
  },
};

const HELP = Object.values(COMMANDS)
  .concat({ usage: "help", help: "shows this list", names: 0, text: false, run: async () => "" })
  .map(({ usage, help }) => `  ${usage.padEnd(24)} ${help}`);

const FAILURES: Record<string, (user: string, detail: string) => string> = {
  unknown_user: (user) => `there is no user ${user}`,
  blocked: (user) => `${user} has blocked you`,
  mailbox_full: (user) => `too much waits for ${user} already; the message was not stored`,
  already_blocked: (user) => `${user} is blocked already`,
  not_blocked: (user) => `${user} is not blocked`,
  line_too_long: () => "that line is too long for this server",
  offline: (user) => `${user} is not here`,
  not_listening: (user) => `${user} does not accept private chats`,
  already_asked: (user) => `${user} has been asked already, and has a minute to answer`,
  no_request: (user) => `${user} has not asked, or not within the last minute`,
  not_introduced: (user) => `there is no private chat with ${user}; getaddress ${user} asks for one`,
  denied: (user, text) =>
    `${user} did not agree, or is not there any more; through the server it goes with: message ${user} ${text}`,
  gone: (user, text) =>
    `${user} cannot be reached privately; nothing was sent. Through the server: message ${user} ${text}`,
  wrong_certificate: (user) => `whoever answers at the address of ${user} is somebody else; nothing was sent`,
  busy: (_user, why) => (why === "" ? "the server is busy; try again in a moment" : `the server is busy: ${why}`),
  banned: (user, seconds) => `${user} is banned${/^\d+$/.test(seconds) ? ` for ${seconds} seconds` : ""}`,
  refused: () => "the server refused it without a reason",
  internal: () => "something went wrong in the server; the command may not have been carried out",
  closed: (_user, why) => (why === "" ? "the connection has ended" : why),
  needs_tls: () => "the server speaks TLS at that port: try --tls",
  not_sent: () => "the server could not be reached; nothing was sent",
  unknown_session: () => "the server had ended the session, and there is a new one now; say that again",
  unknown_outcome: () => "the answer was lost; it was carried out, or refused",
};

/** A failure of a request in words for people. */
export function explain(error: unknown, user: string): string {
  if (!(error instanceof ChatError)) return (error as Error).message;
  // The code is the server's: it may be a word that every object has.
  if (Object.hasOwn(FAILURES, error.code)) return FAILURES[error.code]!(user, error.detail);
  return error.detail === "" ? error.code.replaceAll("_", " ") : error.detail;
}

/** Reasons for the end of a session, in words for people. */
const ENDINGS: Record<string, string> = {
  replaced: "you logged in somewhere else",
  expired: "the server heard nothing for too long and ended the session",
  slow: "too much waited to be read here, so the server ended the session",
  flood: "too many bad lines, so the server ended the session",
  removed: "this user was removed",
  kicked: "the operator ended the session",
  banned: "this user is banned",
  shutdown: "the server has shut down",
  locked_out: "too many wrong passwords: locked out from here",
  unknown_user: "the server does not know this user any more",
  wrong_password: "the server does not accept the password any more",
  unknown_session: "the server does not know the session any more",
  bad_request: "the server did not accept where the session was to go on",
  busy: "the server has no room",
  internal: "something went wrong in the server",
  unreachable: "the server cannot call this client",
};

/** Why a session has ended for good, in words for people. */
export function explainEnd(reason: string): string {
  if (reason === "lost") return "the connection to the server was lost";
  const why = Object.hasOwn(ENDINGS, reason) ? ENDINGS[reason]! : explain(new ChatError(reason), "");
  return `the session has ended: ${why}`;
}

/** Why no connection to that host came about, in words for people. */
export function explainUnreachable(error: unknown, host: string): string {
  if (error instanceof ChatError) return error.detail;
  if (isIPv6(host) && everyAddress() !== "::") return "this machine has no IPv6"; // The runtime gives ECONNREFUSED.
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "ECONNREFUSED") return "nobody listens there";
  if (code === "ENOTFOUND") return "there is no such host";
  if (code === "EADDRNOTAVAIL") return "this machine has no address that could reach it";
  if (code === "EINVAL") return "a link-local address needs its interface, like fe80::1%eth0";
  return message;
}

/** Typed lines to requests, and what comes back to words. It knows neither readline nor sockets. */
export class Terminal {
  readonly #client: ChatClient;
  readonly #surface: Output;
  readonly #display: Display;
  /** Names that were seen, for completion. */
  readonly #names = new Set<string>();
  /** What arrives before `start` waits for it; null from then on. */
  #early: { line: Printable; resolve: (printed: Promise<void>) => void }[] | null = [];

  constructor(client: ChatClient, surface: Output, display: Display) {
    this.#client = client;
    this.#surface = surface;
    this.#display = display;
  }

  /** From now on what arrives is shown. Some may have come in the same breath as the reply to the login. */
  start(): void {
    const early = this.#early ?? [];
    this.#early = null;
    for (const { line, resolve } of early) resolve(this.#surface.print(line));
  }

  #show(line: Printable): Promise<void> {
    const early = this.#early;
    if (early === null) return this.#surface.print(line);
    return new Promise((resolve) => early.push({ line, resolve }));
  }

  /** Shows an event. Resolves when the kernel took it. */
  hear(event: ChatEvent): Promise<void> {
    const name = "from" in event ? event.from : "user" in event ? event.user : "";
    if (canBeName(name)) this.#names.add(name);
    return this.#show(this.#display.event(event));
  }

  /** What became of a request that an earlier run of this program left without an answer. */
  recover(request: string, error: ChatError | null): void {
    const isUnknown = error !== null && ["unknown_outcome", "closed"].includes(error.code);
    const outcome = isUnknown
      ? "the server heard it, or nobody knows"
      : "said again, since the server had not heard it";
    const refusal = error === null || isUnknown ? "" : `: ${explain(error, request.split(" ")[1] ?? "")}`;
    void this.#show(this.#display.note(`from last time: ${request} (${outcome}${refusal})`));
  }

  /** Carries out one typed line; done when its outcome is shown. */
  async run(line: string): Promise<void> {
    const [verb = "", ...rest] = line.split(/[ \t]+/).filter((word) => word !== "");
    if (verb === "") return;
    if (verb === "help") return HELP.forEach((row) => this.#surface.print(printable(row)));
    const command = Object.hasOwn(COMMANDS, verb) ? COMMANDS[verb]! : null;
    if (command === null) return this.#fail(`there is no command ${verb}; help lists them`);
    const [user = ""] = command.names === 1 ? rest : [];
    const text = textBehind(line, 1 + command.names);
    if (user !== "" && !canBeName(user)) return this.#fail(`${user} cannot be a user name`);
    if ((command.names === 1 && user === "") || (text !== "") !== command.text) {
      return this.#fail(`usage: ${command.usage}`);
    }
    try {
      const outcome = await command.run(this.#client, user, text);
      if (command.names === 1) this.#names.add(user);
      if (outcome !== "") await this.#surface.print(this.#display.note(outcome));
    } catch (error) {
      this.#fail(explain(error, user));
    }
  }

  #fail(text: string): void {
    this.#surface.fail(this.#display.failure(text));
  }

  /** The words that may stand where the cursor is, and what of them is typed: what readline calls a completer. */
  complete(line: string): [string[], string] {
    const typed = line.slice(line.lastIndexOf(" ") + 1);
    const words = line.trimStart().split(" ");
    const isName = words.length === 2 && COMMANDS[words[0]!]?.names === 1;
    const known = words.length === 1 ? [...Object.keys(COMMANDS), "help"] : isName ? [...this.#names].sort() : [];
    return [known.filter((word) => word.startsWith(typed)).map((word) => `${word} `), typed];
  }
}

export function canBeName(text: string): boolean {
  const bytes = Buffer.from(text);
  return isName(bytes, 0, bytes.length);
}

/**
 * What follows the first words of a line: spaces inside and at its end are the user's. Only spaces and tabs separate
 * words, since all other white space of Unicode may be part of a text.
 */
function textBehind(line: string, words: number): string {
  return line.replace(/^[ \t]+/, "").replace(new RegExp(`^([^ \\t]+([ \\t]+|$)){${words}}`), "");
}
