/** The grammar of the admin socket: verbs, their words, and codes of errors. Requests are lines, as in the chat. */
import { encode, isName } from "./ascii.ts";

/** The name of the socket in a data folder. */
export const ADMIN_SOCKET = "admin.sock";

export type AdminVerb =
  | "who"
  | "user"
  | "kick"
  | "ban"
  | "unban"
  | "unlock"
  | "purge"
  | "announce"
  | "stats"
  | "reload"
  | "drain"
  | "backup"
  | "cluster"
  | "help";

/** The words of a verb: a user's name, then what follows. A text or path is the rest of the line, spaces included. */
interface AdminShape {
  takesUser: boolean;
  rest: "nothing" | "a number" | "a text" | "an optional text" | "a path";
  usage: string;
  help: string;
}

export const ADMIN_SHAPES: Record<AdminVerb, AdminShape> = {
  who: { takesUser: false, rest: "nothing", usage: "who", help: "lists the sessions" },
  user: {
    takesUser: true,
    rest: "nothing",
    usage: "user <name>",
    help: "shows a user: mailbox, blocks, ban, last login",
  },
  kick: {
    takesUser: true,
    rest: "an optional text",
    usage: "kick <user> [<text>]",
    help: "ends the session of a user, who sees the text",
  },
  ban: {
    takesUser: true,
    rest: "a number",
    usage: "ban <user> [<seconds>]",
    help: "kicks a user and refuses logins, for good without seconds",
  },
  unban: { takesUser: true, rest: "nothing", usage: "unban <user>", help: "ends a ban" },
  unlock: { takesUser: true, rest: "nothing", usage: "unlock <user>", help: "forgets wrong passwords and lockouts" },
  purge: { takesUser: true, rest: "nothing", usage: "purge <user>", help: "deletes the messages that wait for a user" },
  announce: { takesUser: false, rest: "a text", usage: "announce <text>", help: "sends a notice to everybody online" },
  stats: { takesUser: false, rest: "nothing", usage: "stats", help: "shows the figures of the metrics" },
  reload: { takesUser: false, rest: "nothing", usage: "reload", help: "reads users, certificate and options again" },
  drain: {
    takesUser: false,
    rest: "a number",
    usage: "drain [<seconds>]",
    help: "ends all sessions over a time (10 s), then stops the server",
  },
  backup: {
    takesUser: false,
    rest: "a path",
    usage: "backup <new folder>",
    help: "copies the data folder while the server runs",
  },
  cluster: { takesUser: false, rest: "nothing", usage: "cluster", help: "shows the owners and spares of a cluster" },
  help: { takesUser: false, rest: "nothing", usage: "help", help: "lists the commands" },
};

/** The codes after `err`: docs/operating.md, Administration. */
export type AdminErrorCode =
  | "line_too_long"
  | "unknown_command"
  | "bad_request"
  | "busy"
  | "unknown_user"
  | "offline"
  | "not_banned"
  | "failed"
  | "internal";

export interface AdminRequest {
  verb: AdminVerb;
  /** Empty when the verb takes none. */
  user: string;
  /** The rest of the line as latin1, so that its bytes are passed on unchanged; empty without one. */
  text: string;
  /** Null without one. */
  number: number | null;
}

/** Parses a line (latin1, without LF); a code when it is not a request. */
export function parseAdminRequest(line: string): AdminRequest | "unknown_command" | "bad_request" {
  if (line === "") return "bad_request";
  const verb = wordOf(line);
  if (!Object.hasOwn(ADMIN_SHAPES, verb)) return "unknown_command";
  const { takesUser, rest } = ADMIN_SHAPES[verb as AdminVerb];
  const request: AdminRequest = { verb: verb as AdminVerb, user: "", text: "", number: null };
  let left = line.slice(verb.length);
  if (takesUser) {
    request.user = wordOf(left.slice(1));
    left = left.slice(1 + request.user.length);
    const bytes = encode(request.user);
    if (!isName(bytes, 0, bytes.length)) return "bad_request";
  }
  const isOptional = rest !== "a text" && rest !== "a path";
  if (left === "") return isOptional ? request : "bad_request";
  const text = left.slice(1);
  if (text === "" || rest === "nothing") return "bad_request";
  if (rest !== "a number") request.text = text;
  else {
    if (!/^\d{1,15}$/.test(text)) return "bad_request";
    request.number = Number(text);
  }
  return request;
}

function wordOf(text: string): string {
  const space = text.indexOf(" ");
  return space < 0 ? text : text.slice(0, space);
}
