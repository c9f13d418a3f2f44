import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { Thread } from "../../src/runtime/thread.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const script = join(folder, "script.ts");
/** Counts what it is asked; fails, or takes its time, when it is asked that. */
writeFileSync(
  script,
  `let asked = 0;
   self.onmessage = ({ data }) => {
     if (data === "fail") throw new Error("no such thing");
     if (data === "slowly") Bun.sleepSync(20);
     postMessage([data, ++asked]);
   };`,
);
afterAll(() => rmSync(folder, { recursive: true }));

/** Asks a thread of that script, and returns what it answers; throws what it failed of. */
function asking(idleMs?: number): (question: string) => Promise<unknown> {
  let answer = Promise.withResolvers<unknown>();
  const thread = new Thread<string, unknown>(
    pathToFileURL(script),
    (data) => answer.resolve(data),
    (fault) => answer.reject(new Error(fault)),
    idleMs,
  );
  return (question) => {
    answer = Promise.withResolvers();
    thread.ask(question);
    return answer.promise;
  };
}

test("a thread answers one question after the other, and remembers", async () => {
  const ask = asking();
  expect(await ask("what")).toEqual(["what", 1]);
  expect(await ask("why")).toEqual(["why", 2]);
});

test("a thread that is asked again in time does not end before it has answered", async () => {
  const answers: unknown[] = [];
  await new Promise<void>((resolve) => {
    const thread = new Thread<string, unknown>(
      pathToFileURL(script),
      (answer) => {
        if (answers.push(answer) === 1) thread.ask("slowly");
        else resolve();
      },
      () => {},
      0,
    );
    thread.ask("what");
  });
  expect(answers).toEqual([
    ["what", 1],
    ["slowly", 2],
  ]);
});

test("a thread that nobody asks anything ends, and the next question begins another", async () => {
  const ask = asking(0);
  expect(await ask("what")).toEqual(["what", 1]);
  await new Promise((resolve) => setTimeout(resolve, 0));
  expect(await ask("why")).toEqual(["why", 1]);
});

test("a thread that fails says of what, and the next question begins another", async () => {
  const ask = asking();
  expect(await ask("what")).toEqual(["what", 1]);
  expect(ask("fail")).rejects.toThrow("no such thing");
  expect(await ask("why")).toEqual(["why", 1]);
});
