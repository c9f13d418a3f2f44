/**
 * The folder of a cluster server's working copy. What is in it is worth nothing after the process: the shared log has
 * everything. It is made anew for each claim, and removed at the end.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DataFolder } from "../storage/data-folder.ts";
import { DATABASE, StoreError, asStoreError } from "../storage/database.ts";

const PREFIX = "heartline-cluster-";
/** In the folder of `--data`, next to the admin socket. */
const COPY = "cluster";

export class WorkingFolder {
  /** Locked, so that no other process uses it. */
  readonly #folder: DataFolder;
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
    this.#folder = new DataFolder(given ?? mkdtempSync(join(tmpdir(), PREFIX)));
  }

  /** Makes the folder of the copy, which is empty then. Throws StoreError. */
  make(): string {
    const path = join(this.#folder.path, COPY);
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
    rmSync(this.#isTemporary ? this.#folder.path : join(this.#folder.path, COPY), { recursive: true, force: true });
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
