import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { Thread, WORKER_READY, WorkerError, checkWorker } from "../../src/runtime/thread.ts";
import { WORKERS } from "../../src/workers.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const script = join(folder, "script.ts");
/** Replies with the request and the count of requests; "fail" throws and "slowly" takes 20 ms. */
writeFileSync(
  script,
  `let count = 0;
   self.onmessage = ({ data }) => {
     if (data === "fail") throw new Error("no such thing");
     if (data === "slowly") Bun.sleepSync(20);
     postMessage([data, ++count]);
   };
   postMessage("${WORKER_READY}");`,
);
afterAll(() => rmSync(folder, { recursive: true }));

/** Starts a thread with that script; the returned function sends a request and resolves with the reply. */
function startThread(idleMs?: number): (request: string) => Promise<unknown> {
  let reply = Promise.withResolvers<unknown>();
  const thread = new Thread<string, unknown>(
    pathToFileURL(script),
    (data) => reply.resolve(data),
    (message) => reply.reject(new Error(message)),
    idleMs,
  );
  return (request) => {
    reply = Promise.withResolvers();
    thread.ask(request);
    return reply.promise;
  };
}

test("a thread handles one request after the other and keeps its state", async () => {
  const ask = startThread();
  expect(await ask("what")).toEqual(["what", 1]);
  expect(await ask("why")).toEqual(["why", 2]);
});

test("a thread that gets a request before the idle time is over does not end before its reply", async () => {
  const replies: unknown[] = [];
  await new Promise<void>((resolve) => {
    const thread = new Thread<string, unknown>(
      pathToFileURL(script),
      (reply) => {
        if (replies.push(reply) === 1) thread.ask("slowly");
        else resolve();
      },
      () => {},
      0,
    );
    thread.ask("what");
  });
  expect(replies).toEqual([
    ["what", 1],
    ["slowly", 2],
  ]);
});

test("a thread without requests ends, and the next request starts a new one", async () => {
  const ask = startThread(0);
  expect(await ask("what")).toEqual(["what", 1]);
  await new Promise((resolve) => setTimeout(resolve, 0));
  expect(await ask("why")).toEqual(["why", 1]);
});

test("an error in a thread is reported, and the next request starts a new thread", async () => {
  const ask = startThread();
  expect(await ask("what")).toEqual(["what", 1]);
  expect(ask("fail")).rejects.toThrow("no such thing");
  expect(await ask("why")).toEqual(["why", 1]);
});

test.each(Object.entries(WORKERS))("the worker %s loads, and says so with its first message", async (_name, script) => {
  await checkWorker(script);
});

test("a worker whose script or whose import is missing is reported in one line with its name", async () => {
  const broken = join(folder, "broken-worker.ts");
  writeFileSync(broken, 'import "./nowhere.ts"; postMessage("ready");');
  for (const file of [broken, join(folder, "missing-worker.ts")]) {
    const error = await checkWorker(pathToFileURL(file)).catch((error: Error) => error);
    expect(error).toBeInstanceOf(WorkerError);
    expect((error as Error).message).toMatch(
      /^cannot load (broken|missing)-worker\.ts: [^\n]+; install or build heartline/,
    );
  }
});
