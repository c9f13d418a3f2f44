import { type ChatClient, ChatError } from "../client/client.ts";
import { isName } from "../protocol/ascii.ts";

/**
 * The table of commands that a person or a script gives to the server. Their words are those of the protocol, which
 * `nc` users know. How a typed line becomes a command is in parse.ts.
 */

export type Parameter = "user" | "text";

/** The outcome of a command that was carried out. */
export interface Result {
  /** The line to print; an empty one prints nothing. */
  note: string;
  /** Of a text that was sent: whether its recipient was there. */
  state?: "sent" | "stored";
  /** What a program wants to know of the reply (`--json`). */
  fields?: Record<string, unknown>;
}

export interface Command {
  section: Section;
  /** The words after the verb; the text is the rest of the line. */
  parameters: readonly Parameter[];
  help: string;
  run: (client: ChatClient, user: string, text: string) => Promise<Result>;
}

/** The pages of the help. */
export type Section = "talk" | "people" | "private" | "screen";

/** Errors of a private message after which its text can be sent through the server. */
const NOT_DELIVERED = ["gone", "denied"];

export const COMMANDS: Record<string, Command> = {
  message: {
    section: "talk",
    parameters: ["user", "text"],
    help: "sends to a user; stored until that user is here",
    run: async (client, user, text) => {
      const state = await client.message(user, text);
      const note = state === "sent" ? `sent to ${user}` : `stored for ${user}; it is delivered when ${user} is here`;
      return { note, state, fields: { code: state } };
    },
  },
  broadcast: {
    section: "talk",
    parameters: ["text"],
    help: "sends to all users who are here",
    run: async (client, _user, text) => {
      const count = await client.broadcast(text);
      return { note: count === 1 ? "sent to 1 user" : `sent to ${count} users`, state: "sent", fields: { count } };
    },
  },
  online: {
    section: "people",
    parameters: [],
    help: "lists the users who are here",
    run: async (client) => {
      const { names, more } = await client.online();
      return { note: hereNote(names, more), fields: { users: names, more } };
    },
  },
  block: {
    section: "people",
    parameters: ["user"],
    help: "rejects a user's messages; that user cannot see you",
    run: async (client, user) => {
      await client.block(user);
      return { note: `${user} is blocked` };
    },
  },
  unblock: {
    section: "people",
    parameters: ["user"],
    help: "ends the block",
    run: async (client, user) => {
      await client.unblock(user);
      return { note: `${user} is no longer blocked` };
    },
  },
  getaddress: {
    section: "private",
    parameters: ["user"],
    help: "asks a user for a private chat between the clients",
    run: async (client, user) => {
      await client.getAddress(user);
      return { note: `${user} has been asked for a private chat` };
    },
  },
  yes: {
    section: "private",
    parameters: ["user"],
    help: "accepts a private chat; that user gets your address",
    run: async (client, user) => {
      await client.answer(user, true);
      return { note: "" };
    },
  },
  no: {
    section: "private",
    parameters: ["user"],
    help: "refuses a private chat",
    run: async (client, user) => {
      await client.answer(user, false);
      return { note: `you refused the private chat with ${user}` };
    },
  },
  private: {
    section: "private",
    parameters: ["user", "text"],
    help: "sends encrypted to a user, not through the server",
    run: async (client, user, text) => {
      await client.private(user, text).catch((error: unknown) => {
        if (error instanceof ChatError && NOT_DELIVERED.includes(error.code)) throw new ChatError(error.code, text);
        throw error;
      });
      return { note: `sent privately to ${user}`, state: "sent" };
    },
  },
  verify: {
    section: "private",
    parameters: ["user"],
    help: "shows the safety number; both users must see the same",
    run: async (client, user) => {
      const number = client.safetyNumber(user);
      return { note: `safety number with ${user}: ${number}`, fields: { safety_number: number } };
    },
  },
  logout: {
    section: "talk",
    parameters: [],
    help: "ends the session; so does Ctrl+C",
    run: async (client) => {
      await client.logout();
      return { note: "" };
    },
  },
};

/** The users who are here, as a line. */
export function hereNote(names: readonly string[], more: number): string {
  if (names.length === 0) return "nobody else is here";
  return `here: ${names.join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
}

/** The command as it is typed, such as `message <user> <text>`. */
export function usageOf(verb: string, { parameters }: Pick<Command, "parameters">): string {
  return [verb, ...parameters.map((parameter) => `<${parameter}>`)].join(" ");
}

/** The commands, one in a line, for a script. */
export const HELP_LINES = [
  ...Object.entries(COMMANDS).map(([verb, command]) => helpLine(usageOf(verb, command), command.help)),
  helpLine("help", "lists the commands"),
];

function helpLine(usage: string, help: string): string {
  return `  ${usage.padEnd(24)} ${help}`;
}

export function isUserName(text: string): boolean {
  const bytes = Buffer.from(text);
  return isName(bytes, 0, bytes.length);
}
