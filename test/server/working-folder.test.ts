import { afterEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { WorkingFolder } from "../../src/server/working-folder.ts";
import { newFolder, removeFolders } from "../support/folders.ts";
import { runWith } from "../support/process.ts";

const STARTS = 100;
/** Starts servers one after another. It fails when one of them cannot start. */
const SCRIPT = `
  const { WorkingFolder } = await import("./src/server/working-folder.ts");
  for (let i = 0; i < ${STARTS}; i++) {
    const folder = new WorkingFolder(null);
    folder.make();
    folder.remove();
  }
`;

afterEach(removeFolders);

test("servers that start at the same time without --data do not remove each other's folder", async () => {
  const env = { TMPDIR: newFolder() };
  const starts = Array.from({ length: 3 }, () => runWith({ env }, "--eval", SCRIPT));
  for (const { err, code } of await Promise.all(starts)) expect([err, code]).toEqual(["", 0]);
  expect(readdirSync(env.TMPDIR)).toEqual([]);
});

test("a server without --data removes the folders of servers that were killed, and no others", () => {
  const before = process.env.TMPDIR;
  const temporary = newFolder();
  process.env.TMPDIR = temporary;
  try {
    const running = new WorkingFolder(null).make();
    const abandoned = mkdtempSync(join(temporary, "heartline-cluster-"));
    new WorkingFolder(null);
    expect([existsSync(running), existsSync(abandoned)]).toEqual([true, false]);
  } finally {
    if (before === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = before;
  }
});
