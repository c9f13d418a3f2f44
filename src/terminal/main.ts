import { ChatError } from "../client/client.ts";
import { takePassword } from "../environment.ts";
import { typed } from "../runtime/invocation.ts";
import { UsageError } from "../usage-error.ts";
import { EXIT_NO_LOGIN, EXIT_USAGE, Exit, exit, output, printError } from "./exit.ts";
import { type Options, USAGE, parseOptions } from "./options.ts";

/** `heartline chat`: with a terminal for a person, without one for a script. USAGE has the exit codes. */
export async function main(args: string[]): Promise<void> {
  const password = takePassword(process.env);
  try {
    const options = parseOptions(args, password);
    if (options !== null && options.warning !== null) printError(options.warning);
    if (options === null) void output.write(USAGE);
    else await run(options);
    await exit(0);
  } catch (error) {
    const { syscall, message } = error as NodeJS.ErrnoException;
    if (error instanceof UsageError) {
      printError(`${message} (${typed("help", "chat")} lists the options)`);
      return exit(EXIT_USAGE);
    }
    // Any other error is a bug of this program: the runtime prints it with its stack.
    if (!(error instanceof Exit || error instanceof ChatError) && syscall === undefined) throw error;
    if (message !== "") printError(message);
    await exit(error instanceof Exit ? error.code : EXIT_NO_LOGIN);
  }
}

/** Only what is needed is loaded: a start takes 3 ms less. */
async function run(options: Options): Promise<void> {
  const isPerson = process.stdin.isTTY && process.stdout.isTTY && !options.json;
  if (isPerson) return (await import("./interactive.ts")).runInteractive(options);
  return (await import("./script.ts")).runScript(options);
}
