import { version } from "../package.json";

const USAGE = `Usage: heartline <command> [options]

  serve     runs the server
  chat      logs in to a server and chats from this terminal
  passwd    adds a user to a credentials file, or changes a password
  version   prints the version
  help      prints this page, or with a command the page of that command
`;

/** The programs of the command `heartline`, each loaded only when it is asked for. */
const PROGRAMS: Record<string, () => Promise<{ main: (args: string[]) => Promise<void> }>> = {
  serve: () => import("./server/main.ts"),
  chat: () => import("./terminal/main.ts"),
  passwd: () => import("./auth/passwd.ts"),
};

async function run([command, ...args]: string[]): Promise<void> {
  if (command === undefined) return refuse("give a command");
  if (command === "version" || command === "--version") return void process.stdout.write(`heartline ${version}\n`);
  if (Object.hasOwn(PROGRAMS, command)) return (await PROGRAMS[command]!()).main(args);
  if (!["help", "--help", "-h"].includes(command)) return refuse(`there is no command ${JSON.stringify(command)}`);
  const [topic] = args;
  if (topic === undefined) return void process.stdout.write(USAGE);
  if (!Object.hasOwn(PROGRAMS, topic)) return refuse(`there is no command ${JSON.stringify(topic)}`);
  return (await PROGRAMS[topic]!()).main(["--help"]);
}

function refuse(why: string): void {
  process.stderr.write(`heartline: ${why} (heartline help lists the commands)\n`);
  process.exitCode = 2;
}

await run(process.argv.slice(2));
