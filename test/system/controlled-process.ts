import { Program } from "../../bench/program.ts";
import { TargetError } from "./target.ts";

/** A program of bench/ that is told an order, and answers each line that is said to it with one line of JSON. */
export class ControlledProcess<Answer> {
  readonly #program: Program;
  #answer = Promise.withResolvers<Answer>();

  /**
   * `who` is what it is called when it ends before it has answered; `before` are words as of `Program`. What it says by
   * itself is no answer unless `isAnswer` says so.
   */
  constructor(
    who: string,
    file: string,
    order: object,
    before: readonly string[],
    isAnswer: (said: object) => boolean = () => true,
  ) {
    const errors: string[] = [];
    const heard = (line: string): void => {
      const said = JSON.parse(line);
      if (isAnswer(said)) this.#answer.resolve(said);
    };
    this.#program = new Program([file], heard, (line) => errors.push(line), before);
    void this.#program.ended.then((how) => {
      this.#fail = () =>
        this.#answer.reject(new TargetError(`${who} ended (${how}): ${errors.join(" ").slice(0, 500)}`));
      this.#fail();
    });
    this.#answer.promise.catch(() => {});
    this.#program.say(JSON.stringify(order));
  }

  /** Rejects what is asked of a program that has ended. */
  #fail = (): void => {};

  /** What it answers next. Rejects with TargetError. */
  get answer(): Promise<Answer> {
    return this.#answer.promise;
  }

  /** Says something that is not answered. */
  tell(line: string): void {
    this.#program.say(line);
  }

  ask(line: string): Promise<Answer> {
    return this.#ask(() => this.#program.say(line));
  }

  /** Nothing more will be said to it; what it answers to that. */
  finish(): Promise<Answer> {
    return this.#ask(() => this.#program.finish());
  }

  #ask(say: () => void): Promise<Answer> {
    this.#answer = Promise.withResolvers();
    this.#answer.promise.catch(() => {}); // Whoever asked may have given up by then.
    say();
    this.#fail();
    return this.#answer.promise;
  }

  async stop(): Promise<void> {
    if (this.#program.isRunning) await this.#program.stop();
  }
}
