import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { filterText } from "../display-filter.ts";
import { variableOf } from "../environment.ts";
import { typed } from "../runtime/invocation.ts";
import { PrintError, print } from "../runtime/output.ts";
import { ADMIN_SHAPES, ADMIN_SOCKET, type AdminRequest, parseAdminRequest } from "../protocol/admin.ts";
import { UsageError, usageError } from "../usage-error.ts";
import { type AdminReply, UnreachableError, ask } from "./admin-client.ts";
import { FORMATS, explain } from "./format.ts";

/** `heartline ctl`: one request to the admin socket of a running server, and its reply for a person or a program. */

const USAGE = `Usage: ${typed("ctl")} <command> [--data <folder> or --socket <path>] [--json]

Controls a running server through the admin socket in its data folder. Run it as the server's user or root.

${Object.values(ADMIN_SHAPES)
  .map(({ usage, help }) => `  ${usage.padEnd(24)} ${help}`)
  .join("\n")}

  --data <folder>          data folder of the server (HEARTLINE_DATA, or data)
  --socket <path>          admin socket of a server with --admin-socket (HEARTLINE_ADMIN_SOCKET)
  --json                   prints one JSON value
  --                       before a text that begins with a dash
  --help                   prints this page

Exit code: 0 when it is done, 1 when it failed or no server was reached, 2 for an invalid command line.
`;

/** A reply begins within this time, or the server hangs. A backup is silent until its end. */
const SILENCE_MS = 30_000;
const BACKUP_SILENCE_MS = 24 * 3_600_000;
/** What takes longer shows on a terminal that it goes on. */
const PROGRESS_MS = 1_000;

interface Options {
  path: string;
  isJson: boolean;
  /** The request, and its line in UTF-8. */
  request: AdminRequest;
  line: string;
}

/** Null for the help. */
function parseOptions(args: string[]): Options | null {
  try {
    const { values, positionals } = parseArgs({
      args,
      options: {
        data: { type: "string" },
        socket: { type: "string" },
        json: { type: "boolean" },
        help: { type: "boolean", short: "h" },
      },
      allowPositionals: true,
    });
    const [verb, ...words] = positionals;
    if (values.help === true || verb === "help") return null;
    if (values.data !== undefined && values.socket !== undefined) throw new Error("give --data or --socket, not both");
    if (values.data === "" || values.socket === "") throw new Error('--data and --socket take a path, not ""');
    return { path: socketPath(values), isJson: values.json === true, ...requestOf(verb, words) };
  } catch (error) {
    throw error instanceof UsageError ? error : usageError(error);
  }
}

/** The command line first, then the environment, as `serve` has it. */
function socketPath({ data, socket }: { data?: string; socket?: string }): string {
  if (socket !== undefined) return socket;
  if (data !== undefined) return join(data, ADMIN_SOCKET);
  const given = (option: string): string => process.env[variableOf(option)] ?? "";
  return given("admin-socket") || join(given("data") || "data", ADMIN_SOCKET);
}

function requestOf(verb: string | undefined, words: string[]): { request: AdminRequest; line: string } {
  if (verb === undefined) throw new UsageError("give a command");
  if (!Object.hasOwn(ADMIN_SHAPES, verb)) throw new UsageError(`there is no command ${JSON.stringify(verb)}`);
  const shape = ADMIN_SHAPES[verb as keyof typeof ADMIN_SHAPES];
  const path = shape.rest === "a path" ? words[0] : undefined;
  const hasOnePath = shape.rest !== "a path" || words.length === 1;
  const line = [verb, ...(path === undefined || path === "" ? words : [resolve(path)])].join(" ");
  if (/[\n\r]/.test(line)) throw new UsageError("a command is one line");
  const request = parseAdminRequest(Buffer.from(line).toString("latin1"));
  if (typeof request === "string" || !hasOnePath) throw new UsageError(`usage: ${typed("ctl")} ${shape.usage}`);
  return { request, line };
}

async function control({ path, isJson, request, line }: Options): Promise<number> {
  const stopProgress = showProgress(request.verb);
  const silenceMs = request.verb === "backup" ? BACKUP_SILENCE_MS : SILENCE_MS;
  const reply = await ask(path, line, silenceMs).finally(stopProgress);
  if (reply.code !== null || request.verb === "help") return refused(request, reply);
  const format = FORMATS[request.verb];
  const text = isJson ? JSON.stringify(format.json(request, reply)) : format.text(request, reply);
  await print(`${isJson ? text : text.split("\n").map(filterText).join("\n")}\n`);
  return 0;
}

function refused(request: AdminRequest, reply: AdminReply): number {
  for (const line of reply.lines) printError(line.replace(/^error /, ""));
  printError(explain(request, reply));
  return 1;
}

/** Rewrites a line on a terminal every second. The returned function removes it. */
function showProgress(verb: string): () => void {
  const { stderr } = process;
  if (stderr.isTTY !== true) return () => {};
  let seconds = 0;
  const timer = setInterval(() => stderr.write(`${verb}: ${++seconds} s\r`), PROGRESS_MS);
  return () => {
    clearInterval(timer);
    if (seconds > 0) stderr.write("\x1b[K");
  };
}

function printError(message: string): void {
  process.stderr.write(`heartline: ${filterText(message)}\n`);
}

export async function main(args: string[]): Promise<void> {
  try {
    const options = parseOptions(args);
    if (options === null) await print(USAGE);
    else process.exitCode = await control(options);
  } catch (error) {
    if (error instanceof UsageError) {
      printError(`${error.message} (${typed("help", "ctl")} lists the commands)`);
      process.exitCode = 2;
    } else if (error instanceof UnreachableError || error instanceof PrintError) {
      printError(error.message);
      process.exitCode = 1;
    } else throw error;
  }
}
