import { Program } from "../../bench/program.ts";
import { TargetError } from "./target.ts";

/** A program of bench/ that is told an spec, and answers each line that is message to it with one line of JSON. */
export class ControlledProcess<Answer> {
  readonly #program: Program;
  #answer = Promise.withResolvers<Answer>();

  /**
   * `who` is what it is called when it ends before it has answered; `before` are words as of `Program`. What it says by
   * itself is no answer unless `isAnswer` says so.
   */
  constructor(
    name: string,
    file: string,
    spec: object,
    before: readonly string[],
    isAnswer: (message: object) => boolean = () => true,
  ) {
    const errors: string[] = [];
    const onLine = (line: string): void => {
      const message = JSON.parse(line);
      if (isAnswer(message)) this.#answer.resolve(message);
    };
    this.#program = new Program([file], onLine, (line) => errors.push(line), before);
    void this.#program.ended.then((how) => {
      this.#fail = () =>
        this.#answer.reject(new TargetError(`${name} ended (${how}): ${errors.join(" ").slice(0, 500)}`));
      this.#fail();
    });
    this.#answer.promise.catch(() => {});
    this.#program.writeLine(JSON.stringify(spec));
  }

  /** Rejects what is asked of a program that has ended. */
  #fail = (): void => {};

  /** What it answers next. Rejects with TargetError. */
  get answer(): Promise<Answer> {
    return this.#answer.promise;
  }

  /** Says something that is not answered. */
  send(line: string): void {
    this.#program.writeLine(line);
  }

  ask(line: string): Promise<Answer> {
    return this.#ask(() => this.#program.writeLine(line));
  }

  /** Nothing more will be message to it; what it answers to that. */
  endInput(): Promise<Answer> {
    return this.#ask(() => this.#program.endInput());
  }

  #ask(write: () => void): Promise<Answer> {
    this.#answer = Promise.withResolvers();
    this.#answer.promise.catch(() => {}); // Whoever asked may have given up by then.
    write();
    this.#fail();
    return this.#answer.promise;
  }

  async stop(): Promise<void> {
    if (this.#program.isRunning) await this.#program.stop();
  }
}
