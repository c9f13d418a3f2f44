import { expect, test } from "bun:test";
import { PassThrough } from "node:stream";
import { OutputWriter } from "../../src/runtime/output.ts";
import { Screen } from "../../src/terminal/screen.ts";

/** A screen, a function that types, and one that returns everything that was written. */
function setUp() {
  const input = Object.assign(new PassThrough(), { isTTY: true, setRawMode: () => input });
  const shown: string[] = [];
  const output = Object.assign(new PassThrough(), { isTTY: true, columns: 80, rows: 24 });
  output.on("data", (chunk: Buffer) => shown.push(chunk.toString()));
  const screen = new Screen(input as never, output as never, new OutputWriter(output));
  const type = async (text: string): Promise<void> => {
    input.write(text);
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { screen, type, shown: () => shown.join("") };
}

test("a password that is typed before the question is the answer, and is never shown", async () => {
  const { screen, type, shown } = setUp();
  await type("sec");
  const asked = screen.ask("Password: ", true);
  await type("ret\r");
  expect(await asked).toBe("secret");
  await type("again");
  const askedAgain = screen.ask("Password: ", true);
  await type("\r");
  expect(await askedAgain).toBe("again");
  expect(shown()).toContain("Password: ");
  expect(shown()).not.toMatch(/sec|ret|again/);
  screen.close();
});

test("a name that is typed before the question is shown after it", async () => {
  const { screen, type, shown } = setUp();
  await type("colum");
  const asked = screen.ask("Name: ");
  await type("bia\r");
  expect(await asked).toBe("columbia");
  expect(shown()).toContain("Name: colum");
  screen.close();
});
