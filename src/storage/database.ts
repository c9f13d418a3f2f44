import { Database, SQLiteError } from "bun:sqlite";
import { chmodSync } from "node:fs";
import { join } from "node:path";
import { PRAGMA, SCHEMA_VERSION, TRANSACTION, upgrades } from "./sql.ts";

/**
 * Opens the SQLite database of a data folder: settings, upgrades from earlier versions, and the check for damage. The
 * tables and statements are in sql.ts.
 */

/**
 * What an `ok` survives. `none`: nothing; the changes of the last second are lost with the process. `process`: the end
 * of this process, also by `kill -9`. `power`: also a power failure.
 */
export type Durability = "none" | "process" | "power";

/** The data folder cannot be used. The message is for the operator. */
export class StoreError extends Error {}

/** The name of the database in its folder. */
export const DATABASE = "heartline.sqlite";

/**
 * Opens the database in `folder`, which exists and is locked by this process. ":memory:" opens a database without a
 * file. `isChecked`: its pages were checked, which takes a second for a gigabyte. Throws StoreError.
 */
export function openDatabase(folder: string, durability: Durability, isChecked = false): Database {
  if (folder === ":memory:") {
    const database = new Database(":memory:");
    for (const statement of upgrades(0)) database.run(statement);
    return database;
  }
  const file = join(folder, DATABASE);
  let database: Database | null = null;
  try {
    database = new Database(file, { create: true });
    chmodSync(file, 0o600);
    database.run(PRAGMA.writeAheadLog);
    if (!isChecked) checkPages(database, file);
    database.run(PRAGMA.synchronous[durability]);
    database.run(PRAGMA.autoCheckpoint);
    database.run(PRAGMA.temporaryInMemory);
    database.run(TRANSACTION.begin);
    const { user_version: version } = database.query<{ user_version: number }, []>(PRAGMA.version).get()!;
    if (version > SCHEMA_VERSION)
      throw new StoreError(`${file} was written by a newer Heartline; start that version, or restore a backup`);
    for (const statement of upgrades(version)) database.run(statement);
    database.run(TRANSACTION.commit);
    // When a connection closes while another one has locks on the file, SQLite keeps its descriptor for the next
    // connection, since close(2) would release these locks (`setPendingFd` in os_unix.c). Here it gets a descriptor to
    // keep, which each checkpoint uses (wal-checkpointer.ts), so that the number of open files does not change later.
    new Database(file).close();
    return database;
  } catch (error) {
    database?.close();
    throw asStoreError(error, folder);
  }
}

/** Runs before recovery, while the journal still has the last messages: damage found later would cost these too. */
function checkPages(database: Database, file: string): void {
  const { quick_check: verdict } = database.query<{ quick_check: string }, []>(PRAGMA.check).get()!;
  if (verdict !== "ok") throw damaged(file, verdict.split("\n").at(-1)!);
}

function damaged(file: string, why: string): StoreError {
  return new StoreError(
    `${file} is damaged: ${why}; put back a copy of the whole folder, or move this file away and start once with ` +
      "--salvage, which keeps what the journal has",
  );
}

/** Turns any error of opening into a StoreError that names the file or folder. */
export function asStoreError(error: unknown, folder: string): StoreError {
  if (error instanceof StoreError) return error;
  const { message } = error as Error;
  const file = join(folder, DATABASE);
  if (error instanceof SQLiteError) {
    if (error.code?.startsWith("SQLITE_BUSY")) return new StoreError(`${file} is in use by another program`);
    if (error.code === "SQLITE_NOTADB" || error.code?.startsWith("SQLITE_CORRUPT")) return damaged(file, message);
  }
  return new StoreError(`the data folder ${folder} cannot be used: ${message}`);
}
