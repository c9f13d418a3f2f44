import { setPriority } from "node:os";
import { Copier, type CopyRequest } from "./backup-copy.ts";

/** The thread of backup.ts: copies a piece of the data folder, and then replies. */

declare const self: Worker;

/** Of this thread alone (Linux): on a shared core the chat runs first. */
setPriority(19);

const copier = new Copier();

self.onmessage = ({ data: request }: MessageEvent<CopyRequest>) => self.postMessage(copier.answer(request));
