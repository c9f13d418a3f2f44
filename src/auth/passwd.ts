import { createInterface } from "node:readline";
import { Writable } from "node:stream";
import { parseArgs } from "node:util";
import { filterText } from "../display-filter.ts";
import { keyboard, onEndingSignal } from "../runtime/keyboard.ts";
import { LINE_BYTES_MAX } from "../limits.ts";
import { isName } from "../protocol/ascii.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { UsageError, usageError } from "../usage-error.ts";
import { changePasswords, readUsers } from "./credentials-file.ts";
import { CredentialsError, PASSWORD_TOO_LONG, passwordFault, plainUsers } from "./credentials.ts";

const USAGE = `Usage: bun run passwd [file] <user>
       bun run passwd --migrate [file]

Gives a user a password, of which the credentials file keeps a hash; who is not in it yet is added. The
password is asked, or without a terminal the first line of standard input. A running server takes the
change with kill -HUP <pid>. The file is credentials.txt unless you name another one.

  --migrate   hashes all passwords of the file that are plain text
  --help      this page

Exit code: 0 when it is done, 1 when nothing was changed, 2 for an invalid command line.
`;

/** Bun's defaults, named since README.md says what memory a login takes. */
const HASH = { algorithm: "argon2id", memoryCost: 65_536, timeCost: 2 } as const;
/** Each takes a core and 64 MiB. */
const HASHES_AT_ONCE = 4;
/** How often a person, and a log, are told how far it is. */
const PROGRESS_MS = 1000;
const PROGRESS_LOG_MS = 10_000;

const TAKE_IT = "kill -HUP <pid> makes a running server take it";
const UNCHANGED = "nothing was changed";
const LINE_FEED = Buffer.from("\n");

interface Options {
  file: string;
  /** Whose password is set; null hashes all. */
  user: string | null;
}

function parseOptions(args: string[]): Options | null {
  try {
    const { values, positionals } = parseArgs({
      args,
      options: { migrate: { type: "boolean" }, help: { type: "boolean", short: "h" } },
      allowPositionals: true,
    });
    if (values.help === true) return null;
    const user = values.migrate === true ? null : positionals.pop();
    const [file = "credentials.txt", ...rest] = positionals;
    if (user === undefined || rest.length > 0) throw new Error("give a user, or a file and a user, or --migrate");
    return { file, user };
  } catch (error) {
    throw usageError(error);
  }
}

async function setPassword(file: string, user: string): Promise<string> {
  const bytes = Buffer.from(user);
  if (!isName(bytes, 0, bytes.length)) throw new CredentialsError(`${JSON.stringify(user)} cannot be a user name`);
  readUsers(file); // It may be refused: before anybody types.
  const hash = await Bun.password.hash(await askPassword(user), HASH);
  let isNew = false;
  await changePasswords(file, (users) => {
    isNew = !users.some(({ name }) => name === user);
    return new Map([[user, hash]]);
  });
  return `${isNew ? `added ${user} to` : `changed the password of ${user} in`} ${file}; ${TAKE_IT}`;
}

/** From a script it is one line; on a terminal it is not shown, and typed twice. */
async function askPassword(user: string): Promise<string> {
  if (process.stdin.isTTY) return askTwice(user);
  const password = await readLine(process.stdin);
  const fault = password === null ? "there is no password on standard input" : passwordFault(password, true);
  if (fault !== null) throw new CredentialsError(fault);
  return password!;
}

/** The first line, which ends at LF only, or with the input; null when there is none. */
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
  // Readline would show what is typed: it writes nowhere, and questions go past it.
  const output = new Writable({ write: (_chunk, _encoding, done) => done() });
  const readline = createInterface({ input: keyboard(stdin), output, terminal: true, historySize: 0 });
  const lines = readline[Symbol.asyncIterator]();
  let asked = "";
  // Ctrl+Z: all of the shell's job stops, or whoever started this would wait for it, and the password be shown.
  readline.on("SIGTSTP", () => {
    stdin.setRawMode(false);
    process.kill(0, "SIGTSTP");
    stdin.setRawMode(true);
    stderr.write(asked);
  });
  const ask = async (question: string): Promise<string> => {
    asked = question;
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
      stderr.write(`${fault ?? "these were two different passwords"}\n`);
    }
  } finally {
    readline.close();
  }
}

async function migrate(file: string): Promise<string> {
  const users = readUsers(file);
  if (users === null) throw new CredentialsError(`${file}: there is no such file`);
  const plain = plainUsers(users);
  /** By the line that one stands for: what somebody changes meanwhile stays as they want it. */
  const hashes = new Map<string, string>();
  const stopTelling = tellProgress(() => `hashed ${hashes.size} of ${plain.length} passwords`);
  const rest = plain.values();
  const hashSome = async (): Promise<void> => {
    for (const { name, password } of rest) hashes.set(`${name} ${password}`, await Bun.password.hash(password, HASH));
  };
  await Promise.all(Array.from({ length: HASHES_AT_ONCE }, hashSome));
  stopTelling();
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
  return `hashed ${count} in ${file}${changed.size > 0 ? `; ${TAKE_IT}` : ""}`;
}

/** Until what it returns is called. */
function tellProgress(words: () => string): () => void {
  const { stderr } = process;
  const inPlace = stderr.isTTY === true;
  const tell = (): void => void stderr.write(`${words()}${inPlace ? "\r" : "\n"}`);
  const timer = setInterval(tell, inPlace ? PROGRESS_MS : PROGRESS_LOG_MS);
  return () => {
    clearInterval(timer);
    if (inPlace) stderr.write("\x1b[K");
  };
}

function fail(message: string, code: number): never {
  process.stderr.write(`heartline: ${filterText(message)}\n`);
  process.exit(code);
}

/** `heartline passwd`. Exit codes: 0 done, 1 nothing was changed, 2 for an invalid command line. */
export async function main(args: string[]): Promise<void> {
  // A signal finds nothing changed yet: a change begins and ends in one go.
  onEndingSignal(() => fail(UNCHANGED, 1));
  try {
    const options = parseOptions(args);
    if (options === null) process.stdout.write(USAGE);
    else {
      const { file, user } = options;
      process.stdout.write(`${filterText(await (user === null ? migrate(file) : setPassword(file, user)))}\n`);
    }
    process.exit(0);
  } catch (error) {
    if (error instanceof UsageError) fail(`${error.message} (--help shows how)`, 2);
    if (error instanceof CredentialsError) fail(error.message, 1);
    throw error;
  }
}
