import { Program } from "../../bench/program.ts";
import { TargetError } from "./target.ts";

/** A program of this project in a process of its own: it reads a spec and then lines, and answers each with JSON. */
export class ControlledProcess<Answer> {
  readonly #program: Program;
  #answer = Promise.withResolvers<Answer>();

  /**
   * `name` is its name in errors; `prefix` is that of `Program`. Lines that `isAnswer` does not accept are ignored:
   * progress, for example.
   */
  constructor(
    name: string,
    file: string,
    spec: object,
    prefix: readonly string[],
    isAnswer: (message: object) => boolean = () => true,
  ) {
    const errors: string[] = [];
    const onLine = (line: string): void => {
      const message = JSON.parse(line);
      if (isAnswer(message)) this.#answer.resolve(message);
    };
    this.#program = new Program([file], onLine, (line) => errors.push(line), prefix);
    void this.#program.ended.then((how) => {
      this.#fail = () =>
        this.#answer.reject(new TargetError(`${name} ended (${how}): ${errors.join(" ").slice(0, 500)}`));
      this.#fail();
    });
    this.#answer.promise.catch(() => {});
    this.#program.writeLine(JSON.stringify(spec));
  }

  /** Once the program has ended: rejects the pending answer. */
  #fail = (): void => {};

  /** The next answer. Rejects with TargetError when the program ends. */
  get answer(): Promise<Answer> {
    return this.#answer.promise;
  }

  /** Writes a line that has no answer. */
  send(line: string): void {
    this.#program.writeLine(line);
  }

  ask(line: string): Promise<Answer> {
    return this.#ask(() => this.#program.writeLine(line));
  }

  /** Closes its stdin and returns its last answer. */
  endInput(): Promise<Answer> {
    return this.#ask(() => this.#program.endInput());
  }

  #ask(write: () => void): Promise<Answer> {
    this.#answer = Promise.withResolvers();
    this.#answer.promise.catch(() => {}); // The caller may not wait for it any more.
    write();
    this.#fail();
    return this.#answer.promise;
  }

  async stop(): Promise<void> {
    if (this.#program.isRunning) await this.#program.stop();
  }
}
