import { expect, test } from "bun:test";
import { parseArgs } from "node:util";
import { UsageError, usageError } from "../src/usage-error.ts";

function errorOf(run: () => unknown): unknown {
  try {
    run();
  } catch (error) {
    return error;
  }
}

test("the error of parseArgs is shortened to its first sentence and begins in lower case", () => {
  const error = usageError(errorOf(() => parseArgs({ args: ["--nonsense"], options: {}, allowPositionals: true })));
  expect(error).toBeInstanceOf(UsageError);
  expect(error.message).toBe("unknown option '--nonsense'");
});

test("any other error keeps its whole message, also when a file name in it has a dot and a space", () => {
  const message = "cannot read --ca my. file: there is no such file";
  expect(usageError(new Error(message)).message).toBe(message);
});
