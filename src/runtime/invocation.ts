import { basename, join, relative } from "node:path";

/**
 * How this program was started: by an npm script, by bun, by the installed command, or as the executable of
 * `npm run build`. Usage texts and hints show commands in that way, so that they can be pasted.
 */

/** What decides how a command is written. */
export interface Start {
  /** The program is the executable of `npm run build`. */
  isExecutable: boolean;
  env: Readonly<Record<string, string | undefined>>;
  /** The first word of the command line. */
  argv0: string;
  execPath: string;
  /** The present folder; null when it was deleted. */
  cwd: string | null;
  /** The folder of package.json. */
  root: string;
}

/** The scripts in package.json by command. The script `heartline` runs any command. */
const SCRIPTS: Record<string, string> = { serve: "start", chat: "client", passwd: "passwd", bench: "bench" };
const ANY_SCRIPT = "heartline";
/** npm and bun add such folders to the PATH of a script; the user does not have them. */
const SCRIPT_FOLDER = /node_modules\/\.bin\/?$/;

const root = join(import.meta.dir, "../..");
const START: Start = {
  isExecutable: Bun.isStandaloneExecutable,
  env: { ...process.env },
  argv0: process.argv0,
  execPath: process.execPath,
  cwd: currentFolder(),
  root,
};
// bin/heartline sets it for this file only: the server would take it for an unknown option.
delete process.env.HEARTLINE_COMMAND;

/** A command of this program as a person types it. Without words it is the program itself. */
export function typed(...words: string[]): string {
  return typedAs(START, words);
}

/** The command that starts a child process of this program. */
export function spawned(...words: string[]): string[] {
  const { isExecutable, execPath } = START;
  return [execPath, ...(isExecutable ? [] : [...process.execArgv, join(root, "src/main.ts")]), ...words];
}

/** `typed` for a given start. */
export function typedAs(start: Start, words: readonly string[]): string {
  return wordsOf(start, words).map(quoted).join(" ");
}

function wordsOf(start: Start, words: readonly string[]): string[] {
  const { isExecutable, env, argv0, execPath, cwd, root } = start;
  if (isExecutable) return [nameOf(argv0, execPath, env), ...words];
  const called = env.HEARTLINE_COMMAND;
  if (called !== undefined) return [nameOf(called, join(root, "bin/heartline"), env), ...words];
  if (isScript(env)) return scriptOf(start, words);
  const main = join(root, "src/main.ts");
  const file = cwd !== null && isInside(cwd, main) ? relative(cwd, main) : main;
  return [nameOf(argv0, execPath, env), file, ...words];
}

function isScript({ npm_package_name, npm_lifecycle_event = "" }: Start["env"]): boolean {
  return npm_package_name === "heartline" && [...Object.values(SCRIPTS), ANY_SCRIPT].includes(npm_lifecycle_event);
}

function scriptOf({ env, root }: Start, words: readonly string[]): string[] {
  const script = SCRIPTS[words[0] ?? ""] ?? ANY_SCRIPT;
  const run = script === "start" ? ["start"] : ["run", script];
  const rest = script === ANY_SCRIPT ? words : words.slice(1);
  if (env.npm_config_user_agent?.startsWith("bun/"))
    return [nameOf("bun", env.npm_execpath ?? "bun", env), ...run, ...rest];
  // The folder in which the user started npm; npm runs the script in that of package.json.
  const isElsewhere = !isInside(root, env.INIT_CWD ?? root);
  return ["npm", ...(isElsewhere ? ["--prefix", root] : []), ...run, "--", ...rest];
}

/** How a user types the program that was started as `given`: by its name if the PATH has it, and else by a path. */
function nameOf(given: string, path: string, env: Start["env"]): string {
  const folders = (env.PATH ?? "").split(":");
  const isOfUser = (folder: string): boolean => env.npm_lifecycle_event === undefined || !SCRIPT_FOLDER.test(folder);
  const name = basename(given);
  const found = Bun.which(name, { PATH: folders.filter(isOfUser).join(":") });
  const hasFolder = given.includes("/");
  if (found !== null && (found === given || !hasFolder)) return name;
  return hasFolder ? given : path;
}

function currentFolder(): string | null {
  try {
    return process.cwd();
  } catch {
    return null;
  }
}

function isInside(folder: string, path: string): boolean {
  return !relative(folder, path).startsWith("..");
}

/** Quoted for a shell, if necessary. */
function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
