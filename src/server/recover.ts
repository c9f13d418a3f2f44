import type { Logger } from "../runtime/log.ts";
import { progressOf } from "../runtime/progress.ts";
import type { ServiceManager } from "../runtime/systemd.ts";
import { openStoreInSlices } from "../storage/recovery.ts";
import type { Store } from "../storage/store.ts";
import type { Config } from "./config.ts";
import { CLOCK } from "./server.ts";

/** During recovery the service manager waits this long for the next progress. */
const START_EXTENSION_MS = 60_000;

/** Progress for the service manager too; see progressOf. */
export function progressFor(manager: ServiceManager, what: string): (part: number) => void {
  return progressOf(what, (text) =>
    manager.notify(`EXTEND_TIMEOUT_USEC=${1000 * START_EXTENSION_MS}`, `STATUS=${text}`),
  );
}

/**
 * Opens the data folder. A long recovery shows its progress on a terminal and to the service manager. `locked` is
 * called when no other server can have the folder. Throws StoreError.
 */
export async function recover(
  { data, durability, salvage }: Config,
  log: Logger,
  manager: ServiceManager,
  locked: () => Promise<void>,
): Promise<Store> {
  const beganMs = performance.now();
  const progress = progressFor(manager, "recovering messages of the last run");
  const options = { salvage, unixMs: CLOCK.unixMs(), locked, progress };
  const { store, recovered } = await openStoreInSlices(data, durability, options);
  const { records, messages, damage } = recovered;
  const tookMs = Math.round(performance.now() - beganMs);
  if (records > 0) {
    log.info(
      { event: "recovered", messages, ms: tookMs },
      `the last run was cut off: recovered ${messages} messages in ${tookMs} ms`,
    );
  }
  if (damage !== null) log.error({ event: "salvaged" }, `salvaged a damaged journal: ${damage}`);
  return store;
}
