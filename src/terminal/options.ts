import { X509Certificate } from "node:crypto";
import { parseArgs } from "node:util";
import { AUTHORITIES_BYTES_MAX } from "../limits.ts";
import { readHost } from "../runtime/host.ts";
import { typed } from "../runtime/invocation.ts";
import { readInput, whyUnreadable } from "../runtime/input-file.ts";
import { usageError } from "../usage-error.ts";
import { isUserName } from "./commands.ts";
import { readPasswordFile } from "./password-file.ts";

/** The command line of `heartline chat`. */

export const USAGE = `Usage: ${typed("chat")} <host> <port> [options]

Logs in to a Heartline server and chats from this terminal. Without a terminal it reads commands from
standard input, one per line, and prints plain lines. At the end of the input it prints all messages
that waited for the user, and logs out.

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
  --help            prints this page

Exit code: 0 after a logout or the end of the input, 1 when the login failed, 2 for an invalid command
line, 3 when the server, the network or another client ended the session, or when standard output
cannot be written.
`;

/** The command line and the environment, parsed. */
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
}

/** `password`: from the environment, null without one. Returns null for `--help`. Throws UsageError. */
export function parseOptions(args: string[], password: string | null = null): Options | null {
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
        help: { type: "boolean", short: "h" },
      },
      allowPositionals: true,
    });
    if (values.help === true) return null;
    const [host, port, ...extra] = positionals;
    if (host === undefined || port === undefined || extra.length > 0)
      throw new Error("give one host and one port, like 127.0.0.1 6001");
    for (const number of [port, values.listen ?? "1"]) {
      if (!/^\d{1,5}$/.test(number) || Number(number) < 1 || Number(number) > 65535) {
        throw new Error(`"${number}" is not a port: a port is a number from 1 to 65535`);
      }
    }
    if (values.listen !== undefined && values["no-listen"] === true)
      throw new Error("use --listen or --no-listen, not both");
    if (values.ca !== undefined && values.tls !== true) throw new Error("--ca needs --tls");
    if (values.tls === true && values.callback === true)
      throw new Error("--tls and --callback cannot be combined: the server's calls to a client are not encrypted");
    if (values.user !== undefined && !isUserName(values.user))
      throw new Error(`"${values.user}" cannot be a user name`);
    const fromFile = values["password-file"] === undefined ? null : readPasswordFile(values["password-file"]);
    return {
      host: readHost(host),
      typedHost: host,
      port: Number(port),
      user: values.user ?? null,
      password: fromFile?.password ?? password,
      warning: fromFile?.warning ?? null,
      callback: values.callback === true,
      tls: values.ca === undefined ? values.tls === true : { ca: readAuthorities(values.ca) },
      listenPort: values["no-listen"] === true ? null : Number(values.listen ?? 0),
    };
  } catch (error) {
    throw usageError(error);
  }
}

function readAuthorities(file: string): string {
  let ca: string;
  try {
    ca = readInput(file, AUTHORITIES_BYTES_MAX, "any").toString();
  } catch (error) {
    throw new Error(`cannot read --ca ${file}: ${whyUnreadable(error)}`);
  }
  try {
    new X509Certificate(ca);
  } catch {
    throw new Error(`--ca ${file}: the file contains no PEM certificate`);
  }
  return ca;
}
