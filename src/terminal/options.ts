import type * as Crypto from "node:crypto";
import { parseArgs } from "node:util";
import { AUTHORITIES_BYTES_MAX } from "../limits.ts";
import { readHost } from "../runtime/host.ts";
import { typed } from "../runtime/invocation.ts";
import { readInput, whyUnreadable } from "../runtime/input-file.ts";
import { usageError } from "../usage-error.ts";
import { isUserName } from "./commands.ts";
import { readPasswordFile } from "./password-file.ts";
import type { PresenceMode } from "./presence.ts";
import { type Profile, type Settings, readProfile } from "./profile.ts";

/** The command line of `heartline chat`, and the profile. */

const COMMAND = typed("chat");

export const USAGE = `Usage: ${COMMAND} [<user>@]<host>[:<port>] [options]
       ${COMMAND} <host> <port> [options]
       ${COMMAND} <server> [options]      a server with a short name in the profile

Logs in to a Heartline server and chats from this terminal. Without a terminal it reads commands from
standard input, one per line, and prints plain lines. At the end of the input it prints all messages
that waited for the user, and logs out. The port is 6001, or 6002 with --tls, when none is given.

When the connection is lost, the client connects again and continues the session: no message is lost or
shown twice. The state for that is in $XDG_STATE_HOME/heartline (~/.local/state/heartline by default).
When a second client of the same user starts on this machine, it takes over the session.

  --user <name>     the user name; the password is asked for, or taken from HEARTLINE_PASSWORD
  --password-file <file>
                    takes the password from the first line of this file, also if HEARTLINE_PASSWORD is set
  --tls             encrypts, and accepts only a server with a valid certificate for <host>
  --ca <file>       with --tls: trusts the authorities in this PEM file instead of the public ones
  --callback        keeps no connection open: one connection per command, and the server connects
                    to this client to deliver messages
  --listen <port>   the port for private chats that you accept (a free port by default)
  --no-listen       accepts no private chats; you can still ask others for one
  --log <folder>    writes the texts of each partner and day to a file in this folder
  --json            reads commands like a script, and prints one JSON object a line
  --help            prints this page

The profile is $XDG_CONFIG_HOME/heartline/chat.toml (~/.config/heartline/chat.toml by default):

  presence = "brief"        # who comes and goes: off, brief or on
  bell = false              # no bell, and no count in the title
  colours = false
  log = "/home/me/chats"    # as --log
  [servers.work]            # for: ${COMMAND} work
  host = "chat.example.org"
  port = 6002
  user = "columbia"
  tls = true                # and ca = "<file>"

Exit code: 0 after a logout or the end of the input, 1 when the login failed, 2 for an invalid command
line, 3 when the server, the network or another client ended the session, or when standard output
cannot be written, 4 when at least one command of a script was refused.
`;

const PORT = 6001;
const TLS_PORT = 6002;

/** The command line, the environment and the profile, parsed. */
export interface Options {
  /** In the form that `connect` takes. */
  host: string;
  /** As the user wrote it. */
  typedHost: string;
  port: number;
  /** Null: the program asks. */
  user: string | null;
  password: string | null;
  /** A line for the user before anything else; null without one. */
  warning: string | null;
  callback: boolean;
  tls: boolean | { ca: string };
  /** The port for incoming private chats: 0 is a free port, null accepts none. */
  listenPort: number | null;
  /** Folder of the log; null: nothing is logged. */
  log: string | null;
  json: boolean;
  presence: PresenceMode;
  hasBell: boolean;
  /** False: no colours, even if the terminal has them. */
  hasColors: boolean;
}

/** `password`: from the environment, null without one. Returns null for `--help`. Throws UsageError. */
export function parseOptions(
  args: string[],
  password: string | null = null,
  profileOf: () => Profile = readProfile,
): Options | null {
  try {
    const { values, positionals } = parseArgs({
      args,
      options: {
        user: { type: "string" },
        "password-file": { type: "string" },
        tls: { type: "boolean" },
        ca: { type: "string" },
        callback: { type: "boolean" },
        listen: { type: "string" },
        "no-listen": { type: "boolean" },
        log: { type: "string" },
        json: { type: "boolean" },
        help: { type: "boolean", short: "h" },
      },
      allowPositionals: true,
    });
    if (values.help === true) return null;
    const profile = profileOf();
    const target = readTarget(positionals, profile);
    if (values.user !== undefined && target.user !== undefined && values.user !== target.user)
      throw new Error(`give one user: ${target.user}@ or --user ${values.user}`);
    const { presence = "on", bell = true, colours = true, ...settings } = { ...profile.settings, ...target.settings };
    const user = values.user ?? target.user ?? settings.user;
    const ca = values.ca ?? settings.ca;
    const hasTls = values.tls ?? settings.tls ?? false;
    const port = target.port ?? (hasTls ? TLS_PORT : PORT);
    const listen = values.listen === undefined ? 0 : readPort(values.listen);
    if (values.listen !== undefined && values["no-listen"] === true)
      throw new Error("use --listen or --no-listen, not both");
    if (values.ca !== undefined && !hasTls) throw new Error("--ca needs --tls");
    if (hasTls && values.callback === true)
      throw new Error("--tls and --callback cannot be combined: the server's calls to a client are not encrypted");
    if (user !== undefined && !isUserName(user)) throw new Error(`"${user}" cannot be a user name`);
    const fromFile = values["password-file"] === undefined ? null : readPasswordFile(values["password-file"]);
    return {
      host: readHost(target.host),
      typedHost: target.host,
      port,
      user: user ?? null,
      password: fromFile?.password ?? password,
      warning: fromFile?.warning ?? null,
      callback: values.callback === true,
      tls: hasTls && ca !== undefined ? { ca: readAuthorities(ca) } : hasTls,
      listenPort: values["no-listen"] === true ? null : listen,
      log: values.log ?? settings.log ?? null,
      json: values.json === true,
      presence,
      hasBell: bell,
      hasColors: colours,
    };
  } catch (error) {
    throw usageError(error);
  }
}

interface Target {
  host: string;
  port?: number;
  user?: string;
  settings: Settings;
}

/** `[<user>@]<host>[:<port>]`, or `<host> <port>`, or the short name of a server in the profile. */
function readTarget([target, port, ...extra]: string[], { servers }: Profile): Target {
  if (target === undefined || extra.length > 0) throw new Error("give one server, like columbia@chat.example.org");
  const [, user, place] = /^(?:([^@]*)@)?(.*)$/s.exec(target)!;
  const server = port === undefined ? servers.get(place!) : undefined;
  if (server !== undefined) return { host: server.host, port: server.port, user, settings: server };
  // A bare IPv6 address has no port.
  const [, host, suffix] = /^(\[.*\]|[^:]*):([^:]*)$/s.exec(place!) ?? [undefined, place!, undefined];
  if (port !== undefined && suffix !== undefined) throw new Error(`give one port: ${suffix} or ${port}`);
  const number = port ?? suffix;
  return { host: host!, port: number === undefined ? undefined : readPort(number), user, settings: {} };
}

function readPort(text: string): number {
  if (!/^\d{1,5}$/.test(text) || Number(text) < 1 || Number(text) > 65535)
    throw new Error(`"${text}" is not a port: a port is a number from 1 to 65535`);
  return Number(text);
}

function readAuthorities(file: string): string {
  let ca: string;
  try {
    ca = readInput(file, AUTHORITIES_BYTES_MAX, "any").toString();
  } catch (error) {
    throw new Error(`cannot read --ca ${file}: ${whyUnreadable(error)}`);
  }
  try {
    // Loaded only here: a start without --ca takes 1.5 ms less.
    const { X509Certificate } = require("node:crypto") as typeof Crypto;
    new X509Certificate(ca);
  } catch {
    throw new Error(`--ca ${file}: the file contains no PEM certificate`);
  }
  return ca;
}
