import { createInterface } from "node:readline";
import { Writable } from "node:stream";
import { parseArgs } from "node:util";
import { filterText } from "../display-filter.ts";
import { typed } from "../runtime/invocation.ts";
import { keyboard, onEndingSignal } from "../runtime/keyboard.ts";
import { LINE_BYTES_MAX } from "../limits.ts";
import { PrintError, print } from "../runtime/output.ts";
import { isName } from "../protocol/ascii.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { UsageError, usageError } from "../usage-error.ts";
import { changePasswords, readUsers } from "./credentials-file.ts";
import { CredentialsError, PASSWORD_TOO_LONG, type User, passwordFault, plainUsers } from "./credentials.ts";

/**
 * `heartline passwd`: asks for a password, hashes it, and has it written. The format of the credentials file is in
 * credentials.ts, its safe replacement in credentials-file.ts.
 */

const USAGE = `Usage: ${typed("passwd")} [file] <user>
       ${typed("passwd")} --delete [file] <user>
       ${typed("passwd")} --migrate [file]

Adds a user to a credentials file, or changes the password of a user. The file contains a hash of the
password. The program asks for the password; without a terminal it reads the first line of standard
input. A running server reads the change after kill -HUP <pid>. The file is credentials.txt by default.

  --delete    removes the user; the messages of the user wait in the data folder
  --migrate   replaces all plain passwords of the file by hashes
  --help      prints this page

Exit code: 0 after the change, 1 when nothing was changed, 2 for an invalid command line.
`;

/** Bun's defaults, written down because docs/operating.md says how much memory a login takes. */
const HASH = { algorithm: "argon2id", memoryCost: 65_536, timeCost: 2 } as const;
/** Parallel hashes; each takes a core and 64 MiB. */
const HASHES_MAX = 4;
/** Time between two lines of progress, on a terminal and in a log. */
const PROGRESS_TERMINAL_MS = 1000;
const PROGRESS_LOG_MS = 10_000;

const RELOAD_HINT = "a running server reads the change after kill -HUP <pid>";
const UNCHANGED = "nothing was changed";
const LINE_FEED = Buffer.from("\n");

interface Options {
  file: string;
  /** The user whose password is set or who is removed; null hashes all plain passwords. */
  user: string | null;
  isRemoval: boolean;
}

function parseOptions(args: string[]): Options | null {
  try {
    const { values, positionals } = parseArgs({
      args,
      options: {
        delete: { type: "boolean" },
        migrate: { type: "boolean" },
        help: { type: "boolean", short: "h" },
      },
      allowPositionals: true,
    });
    if (values.help === true) return null;
    if (values.delete === true && values.migrate === true) throw new Error("give --delete or --migrate, not both");
    const user = values.migrate === true ? null : positionals.pop();
    const [file = "credentials.txt", ...extra] = positionals;
    if (user === undefined || extra.length > 0) throw new Error("give a user, a file and a user, or --migrate");
    return { file, user, isRemoval: values.delete === true };
  } catch (error) {
    throw usageError(error);
  }
}

async function remove(file: string, user: string): Promise<string> {
  existingUsers(file); // Without the file, the change would make an empty one.
  await changePasswords(file, (users) => {
    if (!users.some(({ name }) => name === user)) throw new CredentialsError(`${file} has no user ${user}`);
    if (users.length === 1) throw new CredentialsError(`${user} is the only user in ${file}, and a server needs one`);
    return new Map([[user, null]]);
  });
  return `removed ${user} from ${file}; ${RELOAD_HINT}`;
}

async function setPassword(file: string, user: string): Promise<string> {
  const bytes = Buffer.from(user);
  if (!isName(bytes, 0, bytes.length)) throw new CredentialsError(`${JSON.stringify(user)} cannot be a user name`);
  readUsers(file); // An invalid file is reported before the password is typed.
  const hash = await Bun.password.hash(await askPassword(user), HASH);
  let isNew = false;
  await changePasswords(file, (users) => {
    isNew = !users.some(({ name }) => name === user);
    return new Map([[user, hash]]);
  });
  return `${isNew ? `added ${user} to` : `changed the password of ${user} in`} ${file}; ${RELOAD_HINT}`;
}

/** On a terminal the password is typed twice and not shown; from a script it is the first line of standard input. */
async function askPassword(user: string): Promise<string> {
  if (process.stdin.isTTY) return askTwice(user);
  const password = await readLine(process.stdin);
  if (password === null) throw new CredentialsError("there is no password on standard input");
  const fault = passwordFault(password, true);
  if (fault !== null) throw new CredentialsError(fault);
  return password;
}

/** The first line: it ends at LF only, or with the input. Null when the input is empty. */
async function readLine(input: AsyncIterable<Buffer>): Promise<string | null> {
  const reader = new LineReader(LINE_BYTES_MAX);
  const lineOf = ({ bytes, start, end, tooLong }: LineReader): string => {
    if (tooLong) throw new CredentialsError(PASSWORD_TOO_LONG);
    return Buffer.from(bytes.subarray(start, end)).toString();
  };
  for await (const chunk of input) {
    reader.feed(chunk);
    if (reader.next()) return lineOf(reader);
  }
  reader.feed(LINE_FEED);
  reader.next();
  return reader.lineBytes > LINE_FEED.length ? lineOf(reader) : null;
}

async function askTwice(user: string): Promise<string> {
  const { stdin, stderr } = process;
  // Readline echoes what is typed: its output is dropped, and the questions are written to stderr directly.
  const output = new Writable({ write: (_chunk, _encoding, done) => done() });
  const readline = createInterface({ input: keyboard(stdin), output, terminal: true, historySize: 0 });
  const lines = readline[Symbol.asyncIterator]();
  let question = "";
  // Ctrl+Z stops the whole process group. If only this process stopped, its parent (`bun run`) would stay in the
  // foreground, and the terminal would show the password as it is typed.
  readline.on("SIGTSTP", () => {
    stdin.setRawMode(false);
    process.kill(0, "SIGTSTP");
    stdin.setRawMode(true);
    stderr.write(question);
  });
  const ask = async (text: string): Promise<string> => {
    question = text;
    stderr.write(question);
    const { value, done } = await lines.next();
    stderr.write("\n");
    if (done === true) throw new CredentialsError(UNCHANGED);
    return value;
  };
  try {
    for (;;) {
      const password = await ask(`New password for ${user}: `);
      const fault = passwordFault(password, true);
      if (fault === null && (await ask("Again: ")) === password) return password;
      stderr.write(`${fault ?? "you typed two different passwords; try again"}\n`);
    }
  } finally {
    readline.close();
  }
}

function existingUsers(file: string): User[] {
  const users = readUsers(file);
  if (users === null) throw new CredentialsError(`cannot read ${file}: there is no such file`);
  return users;
}

async function migrate(file: string): Promise<string> {
  const users = existingUsers(file);
  const plain = plainUsers(users);
  /** Hashes by `<user> <password>`: a line that another program changes meanwhile keeps its new password. */
  const hashes = new Map<string, string>();
  const stopProgress = showProgress(() => `hashed ${hashes.size} of ${plain.length} passwords`);
  const queue = plain.values();
  const hashQueued = async (): Promise<void> => {
    for (const { name, password } of queue) hashes.set(`${name} ${password}`, await Bun.password.hash(password, HASH));
  };
  await Promise.all(Array.from({ length: HASHES_MAX }, hashQueued));
  stopProgress();
  const changed = new Map<string, string>();
  if (plain.length > 0) {
    await changePasswords(file, (users) => {
      for (const { name, password } of users) {
        const hash = hashes.get(`${name} ${password}`);
        if (hash !== undefined) changed.set(name, hash);
      }
      return changed;
    });
  }
  const count = `${changed.size} password${changed.size === 1 ? "" : "s"}`;
  return `hashed ${count} in ${file}${changed.size > 0 ? `; ${RELOAD_HINT}` : ""}`;
}

/** Writes a line of progress to stderr from time to time; the returned function stops that. */
function showProgress(line: () => string): () => void {
  const { stderr } = process;
  const isTerminal = stderr.isTTY === true;
  const write = (): void => void stderr.write(`${line()}${isTerminal ? "\r" : "\n"}`);
  const timer = setInterval(write, isTerminal ? PROGRESS_TERMINAL_MS : PROGRESS_LOG_MS);
  return () => {
    clearInterval(timer);
    if (isTerminal) stderr.write("\x1b[K");
  };
}

function fail(message: string, code: number): never {
  process.stderr.write(`heartline: ${filterText(message)}\n`);
  process.exit(code);
}

/** `heartline passwd`. USAGE has the exit codes. */
export async function main(args: string[]): Promise<void> {
  // When a signal arrives, nothing is changed yet: the file is changed without a wait, and then the program exits.
  onEndingSignal(() => fail(UNCHANGED, 1));
  try {
    const options = parseOptions(args);
    if (options === null) await print(USAGE);
    else {
      const { file, user, isRemoval } = options;
      const change = isRemoval ? remove : setPassword;
      const result = await (user === null ? migrate(file) : change(file, user));
      // The exit code is that of the change, also when the result cannot be printed.
      await print(`${filterText(result)}\n`).catch(({ message }) => fail(`${message}; ${result}`, 0));
    }
    process.exit(0);
  } catch (error) {
    if (error instanceof PrintError) fail(error.message, 1);
    if (error instanceof UsageError) fail(`${error.message} (${typed("help", "passwd")} lists the options)`, 2);
    if (error instanceof CredentialsError) fail(error.message, 1);
    throw error;
  }
}
