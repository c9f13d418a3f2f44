/**
 * The scripts of all worker threads. `npm run build` takes them from here. In the executable that it makes, all code is
 * in the folder that was `src/`: the paths begin there, so this file must stay there.
 */
export const WORKERS = {
  hash: new URL("./auth/hash-worker.ts", import.meta.url),
  backup: new URL("./storage/backup-worker.ts", import.meta.url),
  snapshot: new URL("./cluster/snapshot-worker.ts", import.meta.url),
  walCheckpoint: new URL("./storage/wal-checkpoint-worker.ts", import.meta.url),
};
