/**
 * The folder of a cluster server's working copy. What is in it is worth nothing after the process: the shared log has
 * everything. It is made anew for each claim, and removed at the end.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { DataFolder } from "../storage/data-folder.ts";
import { DATABASE, StoreError, asStoreError } from "../storage/database.ts";

const PREFIX = "heartline-cluster-";
/** Before it is locked: another process removes those with the other name that are not. */
const UNLOCKED_PREFIX = "heartline-new-";
/** In the folder of `--data`, next to the admin socket. */
const COPY = "cluster";

export class WorkingFolder {
  readonly #path: string;
  readonly #isTemporary: boolean;

  /** `given` is the folder of `--data`; null without one. Throws StoreError. */
  constructor(given: string | null) {
    this.#isTemporary = given === null;
    if (given !== null && existsSync(join(given, DATABASE))) {
      throw new StoreError(
        `the data folder ${given} has the messages of a server without --cluster, which would not be used; ` +
          "--data names another folder",
      );
    }
    if (given === null) removeAbandoned();
    const path = given ?? mkdtempSync(join(tmpdir(), UNLOCKED_PREFIX));
    new DataFolder(path); // Locked until the process exits, so that no other one uses it.
    this.#path = given ?? join(tmpdir(), basename(path).replace(UNLOCKED_PREFIX, PREFIX));
    if (given === null) renameSync(path, this.#path);
  }

  /** Makes the folder of the copy, which is empty then. Throws StoreError. */
  make(): string {
    const path = join(this.#path, COPY);
    try {
      rmSync(path, { recursive: true, force: true });
      mkdirSync(path, { mode: 0o700 });
    } catch (error) {
      throw asStoreError(error, path);
    }
    return path;
  }

  /** Files in it that are in use stay until the process exits. */
  remove(): void {
    rmSync(this.#isTemporary ? this.#path : join(this.#path, COPY), { recursive: true, force: true });
  }
}

/** Removes the temporary folders of processes that were killed: those are not locked any more. */
function removeAbandoned(): void {
  for (const name of readdirSync(tmpdir())) {
    if (!name.startsWith(PREFIX)) continue;
    const path = join(tmpdir(), name);
    try {
      const folder = new DataFolder(path);
      rmSync(path, { recursive: true, force: true });
      folder.close();
    } catch {
      // It is in use, or another user's.
    }
  }
}
