import {
  BCRYPT_COST_MAX,
  CREDENTIALS_BYTES_MAX,
  HASH_KIB_MAX,
  HASH_WORK_KIB_MAX,
  NAME_BYTES_MAX,
  PASSWORD_BYTES_MAX,
} from "../limits.ts";
import { isName } from "../protocol/ascii.ts";
import { typed } from "../runtime/invocation.ts";
import { type InputKind, readInput, whyUnreadable } from "../runtime/input-file.ts";
import { atOnce, inSlices } from "../runtime/slices.ts";

/** The first line of the sample file. A file without it causes no warning. */
export const SAMPLE_MARK = "# SAMPLE: everybody knows these passwords.";

export interface User {
  name: string;
  /** Plain, or a hash, which begins with `$`. */
  password: string;
}

export interface Credentials {
  users: User[];
  /** The file is the sample that came with the program. */
  sample: boolean;
  /** Of the bytes of the file: one that has not changed is not parsed again, since a million users take seconds. */
  digest?: number | bigint;
}

/** A credentials file that cannot be used. The message names the file, and the line if there is one. */
export class CredentialsError extends Error {}

/** Throws CredentialsError. */
export function readCredentials(file: string): Credentials {
  return atOnce(reading(file, "any", null));
}

/** For a process that serves meanwhile. Resolves with `known` when the file has not changed. */
export function readAgain(file: string, known: Credentials | null): Promise<Credentials> {
  return inSlices(reading(file, "regular", known));
}

/** `kind` is "any" at the start: /dev/stdin is allowed. */
function* reading(file: string, kind: InputKind, known: Credentials | null): Generator<void, Credentials> {
  let bytes: Buffer;
  try {
    bytes = readInput(file, CREDENTIALS_BYTES_MAX, kind);
  } catch (error) {
    // The options of a running server cannot be changed.
    const isMissing = (error as NodeJS.ErrnoException).code === "ENOENT";
    const making = isMissing ? `, ${typed("passwd", file)} <user> makes one` : "";
    const hint = kind === "any" ? ` (--credentials names another one${making})` : "";
    throw new CredentialsError(`cannot read the credentials ${file}: ${whyUnreadable(error)}${hint}`);
  }
  const digest = Bun.hash(bytes);
  if (known?.digest === digest) return known;
  return { ...(yield* parsing(bytes.toString(), file)), digest };
}

export function parseCredentials(text: string, file: string): Credentials {
  return atOnce(parsing(text, file));
}

function* parsing(text: string, file: string): Generator<void, Credentials> {
  const users = yield* parsingUsers(text, file);
  if (users.length === 0) throw new CredentialsError(`${file}: there are no users in it; a line is <user> <password>`);
  return { users, sample: text.replace(/^\ufeff/, "").startsWith(SAMPLE_MARK) };
}

/**
 * The users of lines `<user> <password>`; blank lines and lines that begin with `#` are skipped. An invalid line or a
 * repeated name makes the whole file invalid: a user must not be missing without an error.
 */
export function parseUsers(text: string, file: string): User[] {
  return atOnce(parsingUsers(text, file));
}

function* parsingUsers(text: string, file: string): Generator<void, User[]> {
  const lineOf = new Map<string, number>();
  const users: User[] = [];
  const lines = text.replace(/^\ufeff/, "").split("\n");
  for (let index = 0; index < lines.length; index++) {
    yield;
    const line = trimmed(lines[index]!);
    if (line === "" || line.startsWith("#")) continue;
    const space = line.indexOf(" ");
    const name = space < 0 ? line : line.slice(0, space);
    const password = space < 0 ? "" : line.slice(space + 1);
    const fault = lineFault(name, password, lineOf.get(name));
    if (fault !== null) throw new CredentialsError(`${file}:${index + 1}: ${fault}`);
    lineOf.set(name, index + 1);
    users.push({ name, password });
  }
  return users;
}

/** Why a line cannot be used; null when it can. `earlier`: the line in which that user stands already. */
function lineFault(name: string, password: string, earlier: number | undefined): string | null {
  // The first word is not shown: an editor may have wrapped a password to a line of its own.
  if (!isUserName(name)) return "a line begins with a user name of 1 to 32 of A-Z a-z 0-9 . _ -";
  if (password === "" || password.includes(" ")) return "a line is a user, one space and a password without spaces";
  const fault = passwordFault(password, false) ?? (isHash(password) ? hashFault(password) : null);
  if (fault !== null) return fault;
  return earlier === undefined ? null : `the user ${name} stands in line ${earlier} already`;
}

const nameBytes = Buffer.alloc(4 * NAME_BYTES_MAX);

function isUserName(name: string): boolean {
  return name.length <= NAME_BYTES_MAX && isName(nameBytes, 0, nameBytes.write(name));
}

/** Without spaces, tabs and CRs at the end. Other white space, such as U+00A0, belongs to the password. */
function trimmed(line: string): string {
  let end = line.length;
  while (end > 0 && " \t\r".includes(line[end - 1]!)) end--;
  return line.slice(0, end);
}

export const PASSWORD_TOO_LONG = `a password has ${PASSWORD_BYTES_MAX} bytes at most, so that a login fits into a line`;
/** U+FFFD stands for bytes that are not UTF-8. */
const FORBIDDEN = /[ \0\ufffd]/;
const FORBIDDEN_IN_NEW = /[ \p{Cc}\ufffd]/u;

/**
 * Why a password cannot be used; null when it can. White space other than the space may be used, such as U+00A0. A new
 * password has no control characters, since they cannot be typed at a prompt; files of earlier versions may have some.
 */
export function passwordFault(password: string, isNew: boolean): string | null {
  if (password === "") return "a password cannot be empty";
  if (isNew && FORBIDDEN_IN_NEW.test(password))
    return "a password has no spaces and no control characters, and is UTF-8";
  if (FORBIDDEN.test(password)) return "a password has no spaces and no NUL bytes, and is UTF-8";
  return Buffer.byteLength(password) > PASSWORD_BYTES_MAX ? PASSWORD_TOO_LONG : null;
}

/** The same users and passwords in the same order. */
export function haveSameUsers({ users }: Credentials, { users: others }: Credentials): boolean {
  if (users === others) return true;
  const isSame = ({ name, password }: User, i: number): boolean =>
    name === others[i]!.name && password === others[i]!.password;
  return users.length === others.length && users.every(isSame);
}

/** The users with plain passwords. */
export function plainUsers(users: readonly User[]): User[] {
  return users.filter(({ password }) => !isHash(password));
}

/** How many passwords in `file` are plain, and the command that hashes them; null when none is. */
export function plainPasswordsWarning(users: readonly User[], file: string): string | null {
  const count = plainUsers(users).length;
  if (count === 0) return null;
  return `${count} of ${users.length} passwords are plain text; hash them with ${typed("passwd", "--migrate", file)}`;
}

/** Any other password is plain. */
export function isHash(password: string): boolean {
  return password.startsWith("$");
}

/** The variant, then memory in KiB, passes and lanes, salt and hash: at least 8 and 16 bytes. */
const ARGON2 =
  /^\$argon2(?:id|i|d)\$v=19\$m=([1-9]\d*),t=([1-9]\d*),p=([1-9]\d*)\$([A-Za-z0-9+/]{11,})\$([A-Za-z0-9+/]{22,})$/;
/** Bun rejects hashes with more lanes. */
const LANES_MAX = 64;
const LANE_KIB_MIN = 8;
/** The variant, the cost, 16 bytes of salt and 23 bytes of hash. */
const BCRYPT = /^\$2[aby]\$(0[4-9]|[1-3]\d)\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{30}[.CGKOSWaeimquy26]$/;

const MALFORMED = "a password that begins with $ is a hash, and this is none that can be verified (argon2, bcrypt)";
const COSTLY =
  `this hash takes too much: argon2 may have m=${HASH_KIB_MAX} and m*t=${HASH_WORK_KIB_MAX}, ` +
  `bcrypt a cost of ${BCRYPT_COST_MAX}`;

/** Why a hash cannot be verified, or would cost too much; null when it is good. */
function hashFault(hash: string): string | null {
  const bcrypt = BCRYPT.exec(hash);
  if (bcrypt !== null) return Number(bcrypt[1]) > BCRYPT_COST_MAX ? COSTLY : null;
  const [kib = 0, passes = 0, lanes = 0] = ARGON2.exec(hash)?.slice(1, 4).map(Number) ?? [];
  const isHash = lanes > 0 && lanes <= LANES_MAX && kib >= lanes * LANE_KIB_MIN;
  if (!isHash || !hash.split("$").slice(-2).every(isBase64)) return MALFORMED;
  return kib > HASH_KIB_MAX || kib * passes > HASH_WORK_KIB_MAX ? COSTLY : null;
}

/** Without padding, and with zeros in the unused bits of the last character. */
function isBase64(text: string): boolean {
  return Buffer.from(text, "base64").toString("base64").replace(/=+$/, "") === text;
}
