import { basename } from "node:path";
import { THREAD_IDLE_MS } from "../limits.ts";

/** The first message of a worker: its script is loaded. */
export const WORKER_READY = "ready";

/** The script of a worker cannot be loaded. The message is for the user. */
export class WorkerError extends Error {}

/** Loads the script of a worker once, and ends the worker. Throws WorkerError. */
export async function checkWorker(script: URL): Promise<void> {
  const worker = new Worker(script, { smol: true });
  try {
    await new Promise<void>((resolve, reject) => {
      worker.onmessage = () => resolve();
      worker.onerror = ({ message }) => reject(new Error(message));
    });
  } catch (error) {
    const name = basename(script.pathname);
    throw new WorkerError(`cannot load ${name}: ${(error as Error).message}; install or build heartline again`);
  } finally {
    worker.terminate();
  }
}

/**
 * A worker thread that handles one request at a time: the caller waits for the reply before the next request. The
 * thread starts with a request and ends after `idleMs` without one, or by an error of its own; the next request starts
 * a new thread. It does not keep the process alive.
 */
export class Thread<Request, Reply> {
  readonly #script: URL;
  readonly #onReply: (reply: Reply) => void;
  readonly #onError: (message: string) => void;
  readonly #idleMs: number;
  #worker: Worker | null = null;
  /** Ends the idle thread. */
  #idleTimer: Timer | undefined;

  constructor(
    script: URL,
    onReply: (reply: Reply) => void,
    onError: (message: string) => void,
    idleMs = THREAD_IDLE_MS,
  ) {
    this.#script = script;
    this.#onReply = onReply;
    this.#onError = onError;
    this.#idleMs = idleMs;
  }

  ask(request: Request): void {
    clearTimeout(this.#idleTimer);
    this.#worker ??= this.#start();
    this.#worker.postMessage(request);
  }

  #start(): Worker {
    const worker = new Worker(this.#script, { smol: true });
    worker.unref();
    worker.onmessage = ({ data }: MessageEvent<Reply>) => {
      if (data === WORKER_READY) return;
      this.#idleTimer = setTimeout(() => this.#end(), this.#idleMs).unref();
      this.#onReply(data);
    };
    worker.onerror = ({ message }) => {
      this.#end();
      this.#onError(message);
    };
    return worker;
  }

  #end(): void {
    this.#worker?.terminate();
    this.#worker = null;
  }
}
