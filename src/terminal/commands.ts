import { type ChatClient, ChatError } from "../client/client.ts";
import { isName } from "../protocol/ascii.ts";

/** The table of commands that a person types. Their words are those of the protocol, which `nc` users know. */

type Parameter = "user" | "text";

export interface Command {
  /** The words after the verb; the text is the rest of the line. */
  parameters: readonly Parameter[];
  help: string;
  /** Returns the line to print; an empty one prints nothing. */
  run: (client: ChatClient, user: string, text: string) => Promise<string>;
}

/** Errors of a private message after which its text can be sent through the server. */
const NOT_DELIVERED = ["gone", "denied"];

export const COMMANDS: Record<string, Command> = {
  message: {
    parameters: ["user", "text"],
    help: "sends to a user; stored until that user is here",
    run: async (client, user, text) => {
      if ((await client.message(user, text)) === "sent") return `sent to ${user}`;
      return `stored for ${user}; it is delivered when ${user} is here`;
    },
  },
  broadcast: {
    parameters: ["text"],
    help: "sends to all users who are here",
    run: async (client, _user, text) => {
      const count = await client.broadcast(text);
      return count === 1 ? "sent to 1 user" : `sent to ${count} users`;
    },
  },
  online: {
    parameters: [],
    help: "lists the users who are here",
    run: async (client) => {
      const { names, more } = await client.online();
      if (names.length === 0) return "nobody else is here";
      return `here: ${names.join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
    },
  },
  block: {
    parameters: ["user"],
    help: "rejects messages of a user, and hides you from that user",
    run: async (client, user) => {
      await client.block(user);
      return `${user} is blocked`;
    },
  },
  unblock: {
    parameters: ["user"],
    help: "ends the block",
    run: async (client, user) => {
      await client.unblock(user);
      return `${user} is no longer blocked`;
    },
  },
  getaddress: {
    parameters: ["user"],
    help: "asks a user for a private chat, directly between the clients",
    run: async (client, user) => {
      await client.getAddress(user);
      return `${user} has been asked for a private chat`;
    },
  },
  yes: {
    parameters: ["user"],
    help: "accepts a private chat; that user gets your address",
    run: async (client, user) => {
      await client.answer(user, true);
      return "";
    },
  },
  no: {
    parameters: ["user"],
    help: "refuses a private chat",
    run: async (client, user) => {
      await client.answer(user, false);
      return `you refused the private chat with ${user}`;
    },
  },
  private: {
    parameters: ["user", "text"],
    help: "sends encrypted to a user, not through the server",
    run: async (client, user, text) => {
      await client.private(user, text).catch((error: unknown) => {
        if (error instanceof ChatError && NOT_DELIVERED.includes(error.code)) throw new ChatError(error.code, text);
        throw error;
      });
      return `sent privately to ${user}`;
    },
  },
  verify: {
    parameters: ["user"],
    help: "shows the safety number; both users must see the same",
    run: async (client, user) => `safety number with ${user}: ${client.safetyNumber(user)}`,
  },
  logout: {
    parameters: [],
    help: "ends the session; so does Ctrl+C",
    run: async (client) => {
      await client.logout();
      return "";
    },
  },
};

export function commandOf(verb: string): Command | null {
  return Object.hasOwn(COMMANDS, verb) ? COMMANDS[verb]! : null;
}

/** The command as it is typed, such as `message <user> <text>`. */
export function usageOf(verb: string, { parameters }: Pick<Command, "parameters">): string {
  return [verb, ...parameters.map((parameter) => `<${parameter}>`)].join(" ");
}

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
