import { X509Certificate } from "node:crypto";
import { parseArgs } from "node:util";
import { AUTHORITIES_BYTES_MAX } from "../limits.ts";
import { readHost } from "../runtime/host.ts";
import { readInput } from "../runtime/input-file.ts";
import { usageError } from "../usage-error.ts";
import { canBeName } from "./terminal.ts";

export const USAGE = `Usage: bun run client <host> <port> [options]

Logs in to a Heartline server and chats from this terminal. Without a terminal it reads commands from
standard input, one a line, prints plain lines, and leaves at the end of the input, when all that had
waited is printed. A lost connection is taken up again where it was; what that needs is kept in
$XDG_STATE_HOME/heartline. Another client of the same user on this machine takes the session over.

  --user <name>     who you are; the password is asked, or taken from HEARTLINE_PASSWORD
  --tls             encrypted, and only with who proves to be <host> by a certificate
  --ca <file>       with --tls: trusts the authorities in that PEM file, instead of the public ones
  --callback        no lasting connection: each command is one, and the server calls back to deliver
  --listen <port>   where others may call you for private chats, if you agree (a free port)
  --no-listen       nowhere: you may ask others, and none can ask you
  --help            this page

Exit code: 0 after a chat, 1 when you did not get in, 2 for an invalid command line,
3 when the server or the network ended the session.
`;

/** What the user chose. */
export interface Options {
  host: string;
  typedHost: string;
  port: number;
  user: string | null;
  password: string | null;
  callback: boolean;
  tls: boolean | { ca: string };
  /** Where others may call; 0 is a free port, null nowhere. */
  listenPort: number | null;
}

/** The options of that command line; null for `--help`. Throws UsageError. */
export function parseOptions(args: string[]): Options | null {
  try {
    const { values, positionals } = parseArgs({
      args,
      options: {
        user: { type: "string" },
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
    const [host, port, ...rest] = positionals;
    if (host === undefined || port === undefined || rest.length > 0) throw new Error("give a host and a port");
    for (const number of [port, values.listen ?? "1"]) {
      if (!/^\d{1,5}$/.test(number) || Number(number) < 1 || Number(number) > 65535) {
        throw new Error(`"${number}" is no port`);
      }
    }
    if (values.listen !== undefined && values["no-listen"] === true)
      throw new Error("--listen or --no-listen, not both");
    if (values.ca !== undefined && values.tls !== true) throw new Error("--ca goes with --tls");
    if (values.tls === true && values.callback === true)
      throw new Error("--tls or --callback, not both: the server's calls are not encrypted");
    const tls = values.ca === undefined ? values.tls === true : { ca: readAuthorities(values.ca) };
    const listenPort = values["no-listen"] === true ? null : Number(values.listen ?? 0);
    const password = process.env.HEARTLINE_PASSWORD ?? null;
    if (values.user !== undefined && !canBeName(values.user)) throw new Error(`"${values.user}" cannot be a user name`);
    const [user, callback] = [values.user ?? null, values.callback === true];
    const hosts = { host: readHost(host), typedHost: host };
    return { ...hosts, port: Number(port), user, password, callback, tls, listenPort };
  } catch (error) {
    throw usageError(error);
  }
}

function readAuthorities(file: string): string {
  let ca: string;
  try {
    ca = readInput(file, AUTHORITIES_BYTES_MAX, "any").toString();
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new Error(`cannot read --ca ${file}: ${code ?? message}`);
  }
  try {
    new X509Certificate(ca);
  } catch {
    throw new Error(`--ca ${file}: it has no certificate in PEM`);
  }
  return ca;
}
