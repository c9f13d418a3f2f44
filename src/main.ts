import { version } from "../package.json";
import { typed } from "./runtime/invocation.ts";
import { PrintError, print } from "./runtime/output.ts";

/**
 * The command `heartline`: the first word names a program, and only that program is loaded. It has its own exit codes;
 * `version` and `help` exit with 1 when their text cannot be printed.
 */

const USAGE = `Usage: ${typed()} <command> [options]

  serve            runs the server
  chat             logs in to a server and chats from this terminal
  check            examines the configuration, credentials, certificate and data folder of serve
  passwd           adds a user to a credentials file, or changes a password
  ctl              controls a running server: who is online, kick, ban, back up, drain
  cluster          creates the log that the servers of a cluster share, and moves messages into it and back
  bench            measures a server on this machine
  version          prints the version
  help             prints this page
  help <command>   prints the options of a command
`;

const PROGRAMS: Record<string, () => Promise<{ main: (args: string[]) => Promise<void> }>> = {
  serve: () => import("./server/main.ts"),
  chat: () => import("./terminal/main.ts"),
  check: () => import("./server/check.ts"),
  passwd: () => import("./auth/passwd.ts"),
  ctl: () => import("./ctl/main.ts"),
  cluster: () => import("./cluster/main.ts"),
  bench: () => import("../bench/load/main.ts"),
};

async function run([command, ...args]: string[]): Promise<void> {
  if (command === undefined) return fail("give a command");
  if (command === "version" || command === "--version") return print(`heartline ${version}\n`);
  if (!["help", "--help", "-h"].includes(command)) return start(command, args);
  const [topic] = args;
  if (topic === undefined) return print(USAGE);
  return start(topic, ["--help"]);
}

async function start(command: string, args: string[]): Promise<void> {
  if (!Object.hasOwn(PROGRAMS, command)) return fail(`there is no command ${JSON.stringify(command)}`);
  const { main } = await PROGRAMS[command]!();
  return main(args);
}

function fail(message: string): void {
  process.stderr.write(`heartline: ${message} (${typed("help")} lists the commands)\n`);
  process.exitCode = 2;
}

try {
  await run(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof PrintError)) throw error;
  process.stderr.write(`heartline: ${error.message}\n`);
  process.exitCode = 1;
}
