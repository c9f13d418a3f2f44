/** Temporary folders of a test file. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const folders: string[] = [];

/** A new, empty folder, until `removeFolders`. */
export function newFolder(): string {
  const path = mkdtempSync(join(tmpdir(), "heartline-"));
  folders.push(path);
  return path;
}

/** For `afterEach`. */
export function removeFolders(): void {
  for (const path of folders.splice(0)) rmSync(path, { recursive: true, force: true });
}
