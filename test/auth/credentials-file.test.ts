import { afterAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { changePasswords, readUsers } from "../../src/auth/credentials-file.ts";
import { CredentialsError } from "../../src/auth/credentials.ts";

const root = mkdtempSync(join(tmpdir(), "heartline-"));
let folders = 0;
afterAll(() => rmSync(root, { recursive: true }));

/** A file with these bytes, alone in a folder. */
function newFile(text: string): { folder: string; file: string } {
  const folder = join(root, String(folders++));
  mkdirSync(folder);
  const file = join(folder, "users.txt");
  writeFileSync(file, text, "latin1");
  return { folder, file };
}

function change(file: string, ...pairs: [string, string][]): Promise<void> {
  return changePasswords(file, () => new Map(pairs));
}

describe("only the lines of those whose passwords change do so", () => {
  test.each([
    ["beside comments and others", "# bob two\n\nbob one\nbobby one\n", "# bob two\n\nbob new\nbobby one\n"],
    ["with CRLF", "# users\r\nbob one\r\nzoe one\r\n", "# users\r\nbob new\r\nzoe one\r\n"],
    ["with both ends", "bob one\nzoe one\r\n", "bob new\nzoe one\r\n"],
    ["behind a byte order mark", "\xef\xbb\xbfbob one\nzoe one\n", "\xef\xbb\xbfbob new\nzoe one\n"],
    ["without a last end", "zoe one\nbob one", "zoe one\nbob new"],
    ["with spaces behind", "bob one \t\nzoe one \n", "bob new\nzoe one \n"],
    ["with a CR within", "bob o\rne\n", "bob new\n"],
    ["beside what is not UTF-8", "# gr\xf6\xdfe\rbob x\nbob gr\xc3\xa0\n", "# gr\xf6\xdfe\rbob x\nbob new\n"],
  ])("%s", async (_what, before, after) => {
    const { file } = newFile(before);
    await change(file, ["bob", "new"]);
    expect(readFileSync(file, "latin1")).toBe(after);
  });

  test.each([
    ["behind the last", "zoe one\n# end\n", "zoe one\n# end\nbob new\namy new\n"],
    ["with CRLF", "zoe one\r\n", "zoe one\r\nbob new\r\namy new\r\n"],
    ["where the last end is missing", "zoe one", "zoe one\nbob new\namy new\n"],
    ["in an empty file", "", "bob new\namy new\n"],
  ])("and new ones come %s", async (_what, before, after) => {
    const { file } = newFile(before);
    await change(file, ["bob", "new"], ["amy", "new"]);
    expect(readFileSync(file, "latin1")).toBe(after);
  });
});

describe("the file is replaced, and keeps", () => {
  test("a change of passwords keeps the mode of the file and leaves no draft", async () => {
    const { folder, file } = newFile("bob one\n");
    chmodSync(file, 0o640);
    const before = statSync(file).ino;
    await change(file, ["bob", "new"]);
    expect(statSync(file).ino).not.toBe(before);
    expect(statSync(file).mode & 0o7777).toBe(0o640);
    expect(readdirSync(folder)).toEqual(["users.txt"]);
  });

  test.skipIf(process.getuid?.() !== 0)("a change of passwords keeps owner and group", async () => {
    const { file } = newFile("bob one\n");
    chownSync(file, 12345, 54321);
    await change(file, ["bob", "new"]);
    const { uid, gid } = statSync(file);
    expect([uid, gid]).toEqual([12345, 54321]);
  });

  test("a change of passwords keeps symbolic links to the file", async () => {
    const { folder, file } = newFile("bob one\n");
    const link = join(folder, "link.txt");
    symlinkSync("users.txt", link);
    await change(link, ["bob", "new"]);
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    expect(readFileSync(file, "utf8")).toBe("bob new\n");
    rmSync(file);
    await expect(change(link, ["bob", "new"])).rejects.toThrow(CredentialsError);
  });
});

test("a failed change leaves the file as it was and no draft", async () => {
  const { folder, file } = newFile("bob one\nzoe\n");
  expect(() => readUsers(file)).toThrow(`${file}:2: `);
  await expect(change(file, ["bob", "new"])).rejects.toThrow(`${file}:2: `);
  writeFileSync(file, "bob one\n");
  const fault = new Error("a fault");
  const faulty = changePasswords(file, () => {
    throw fault;
  });
  await expect(faulty).rejects.toBe(fault);
  expect(readFileSync(file, "utf8")).toBe("bob one\n");
  expect(readdirSync(folder)).toEqual(["users.txt"]);
});

test("a pipe or a device is not replaced by a file", async () => {
  const { folder } = newFile("");
  const pipe = join(folder, "pipe");
  Bun.spawnSync(["mkfifo", pipe]);
  for (const path of [pipe, folder]) {
    await expect(change(path, ["bob", "one"])).rejects.toThrow(`cannot change ${path}: it is not a regular file`);
  }
  expect(readdirSync(folder).sort()).toEqual(["pipe", "users.txt"]);
});

test("a change waits for the end of another process's change", async () => {
  const { file } = newFile("bob one\n");
  writeFileSync(`${file}.new`, "");
  const waiting = change(file, ["bob", "new"]);
  rmSync(`${file}.new`);
  await waiting;
  expect(readFileSync(file, "utf8")).toBe("bob new\n");
});

test("the error names the draft to delete when a killed process left it", async () => {
  const { file } = newFile("bob one\n");
  writeFileSync(`${file}.new`, "half");
  await expect(change(file, ["bob", "new"])).rejects.toThrow(`delete ${file}.new`);
  expect(readFileSync(file, "utf8")).toBe("bob one\n");
  expect(readFileSync(`${file}.new`, "utf8")).toBe("half");
});
