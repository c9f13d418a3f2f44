import { setPriority } from "node:os";
import { WORKER_READY } from "../runtime/thread.ts";
import { Copier, type CopyRequest } from "./backup-copy.ts";

/** The thread of backup.ts: copies a piece of the data folder, and then replies. */

declare const self: Worker;

/**
 * Of this thread alone (Linux): on a shared core the chat runs first. Not the lowest: SQLite's log grows until the copy
 * ends, also while other programs use all cores.
 */
setPriority(10);

const copier = new Copier();

self.onmessage = ({ data: request }: MessageEvent<CopyRequest>) => self.postMessage(copier.answer(request));
self.postMessage(WORKER_READY);
