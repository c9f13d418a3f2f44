import {
  closeSync,
  fchmodSync,
  fchownSync,
  fsyncSync,
  lstatSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { CREDENTIALS_BYTES_MAX } from "../limits.ts";
import { CredentialsError, type User, parseUsers } from "./credentials.ts";
import { readInput, whyUnreadable } from "../runtime/input-file.ts";

/** Attempts to get the lock of another change, which takes milliseconds, and the pause between them. */
const TRIES = 40;
const PAUSE_MS = 50;

/** The users of the file; null when it does not exist. Throws for a file that a server would refuse. */
export function readUsers(file: string): User[] | null {
  const text = read(file);
  return text === null ? null : usersOf(text, file);
}

/**
 * Changes the passwords that `choose` returns by user name: new users get a line at the end, users with null lose their
 * line, and other lines stay. The file is replaced as a whole or not at all. Other changes made at the same time are
 * kept.
 */
export async function changePasswords(
  file: string,
  choose: (users: readonly User[]) => ReadonlyMap<string, string | null>,
): Promise<void> {
  const path = follow(file);
  const draft = `${path}.new`;
  const descriptor = await createDraft(draft, file);
  // Nothing waits from here on, so that no signal handler runs before the end.
  try {
    const text = read(path) ?? "";
    const passwords = choose(usersOf(text, file));
    keepOwnerAndMode(descriptor, path);
    writeFileSync(descriptor, withPasswords(text, passwords), "latin1");
    fsyncSync(descriptor);
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    throw unable(`change ${file}`, error);
  } finally {
    closeSync(descriptor);
  }
}

/** The file's bytes, one character each: other lines than those of users need not be UTF-8. */
function read(file: string): string | null {
  try {
    return readInput(file, CREDENTIALS_BYTES_MAX, "regular").toString("latin1");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw new CredentialsError(`cannot read ${file}: ${whyUnreadable(error)}`);
  }
}

function usersOf(text: string, file: string): User[] {
  return parseUsers(Buffer.from(text, "latin1").toString(), file);
}

/** A user's line: perhaps a byte order mark, the name, the password, and the CR of the line's end. */
const LINE = /^(\xef\xbb\xbf)?([^ ]+) .*?(\r?)$/s;

function withPasswords(text: string, passwords: ReadonlyMap<string, string | null>): string {
  const added = new Map(passwords);
  const lines = text.split("\n").flatMap((line) => {
    const [, mark = "", name = "", cr = ""] = LINE.exec(line) ?? [];
    const password = passwords.get(name);
    if (password === undefined || !added.delete(name)) return [line];
    return password === null ? [] : [`${mark}${name} ${password}${cr}`];
  });
  const end = text.includes("\r\n") ? "\r\n" : "\n";
  const changed = lines.join("\n");
  const between = added.size === 0 || lines.at(-1) === "" ? "" : end;
  return changed + between + [...added].map(([name, password]) => `${name} ${password}${end}`).join("");
}

/** The target of symbolic links, so that the links stay. Throws for a device or pipe, which a rename would replace. */
function follow(file: string): string {
  try {
    const path = realpathSync(file);
    if (statSync(path).isFile()) return path;
    throw new CredentialsError(`cannot change ${file}: it is not a regular file`);
  } catch (error) {
    if (error instanceof CredentialsError) throw error;
    // The file is new, unless the name is a dangling link.
    const isNew = lstatSync(file, { throwIfNoEntry: false }) === undefined;
    if (isNew) return file;
    throw unable(`change ${file}`, error);
  }
}

/** Creates the draft, which is also the lock: while another process has one, waits, so that its change is kept. */
async function createDraft(draft: string, file: string): Promise<number> {
  for (let tries = 1; ; tries++) {
    try {
      return openSync(draft, "wx", 0o600);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw unable(`change ${file}`, error);
    }
    if (tries === TRIES) {
      throw new CredentialsError(
        `another passwd is changing ${file}; if there is none, one was killed: delete ${draft}`,
      );
    }
    await Bun.sleep(PAUSE_MS);
  }
}

function keepOwnerAndMode(descriptor: number, path: string): void {
  const before = statSync(path, { throwIfNoEntry: false });
  if (before === undefined) return;
  try {
    fchownSync(descriptor, before.uid, before.gid);
  } catch {
    // Only root may change owners: the file then belongs to the user who changed it.
  }
  fchmodSync(descriptor, before.mode & 0o7777);
}

function unable(what: string, error: unknown): unknown {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === undefined) return error;
  if (code === "ENOENT") return new CredentialsError(`cannot ${what}: its folder does not exist; create that first`);
  // The file is replaced, so the folder counts.
  if (code === "EACCES") return new CredentialsError(`cannot ${what}: its folder is not writable for this user`);
  return new CredentialsError(`cannot ${what}: ${message}`);
}
