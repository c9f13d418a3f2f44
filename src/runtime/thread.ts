import { THREAD_IDLE_MS } from "../limits.ts";

/**
 * A thread that answers one question at a time. It begins with the first, does not keep the process alive, and ends
 * when nobody has asked for a while, or by a fault of its own. The next question begins another.
 */
export class Thread<Question, Answer> {
  readonly #script: URL;
  readonly #answered: (answer: Answer) => void;
  readonly #failed: (fault: string) => void;
  readonly #idleMs: number;
  #worker: Worker | null = null;
  #idle: Timer | undefined;

  constructor(
    script: URL,
    answered: (answer: Answer) => void,
    failed: (fault: string) => void,
    idleMs = THREAD_IDLE_MS,
  ) {
    this.#script = script;
    this.#answered = answered;
    this.#failed = failed;
    this.#idleMs = idleMs;
  }

  ask(question: Question): void {
    clearTimeout(this.#idle);
    this.#worker ??= this.#start();
    this.#worker.postMessage(question);
  }

  #start(): Worker {
    const worker = new Worker(this.#script, { smol: true });
    worker.unref();
    worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      this.#idle = setTimeout(() => this.#end(), this.#idleMs).unref();
      this.#answered(data);
    };
    worker.onerror = ({ message }) => {
      this.#end();
      this.#failed(message);
    };
    return worker;
  }

  #end(): void {
    this.#worker?.terminate();
    this.#worker = null;
  }
}
