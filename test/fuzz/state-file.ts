import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { StateFile } from "../../src/terminal/state-file.ts";
import { expectAlike, expectThat, latin1, target } from "./target.ts";

const TOKEN = "A".repeat(22);
const GOOD = { token: TOKEN, received: 5, unanswered: [{ line: "message SEAS hi", position: 16 }] };

/** A state file and its path: created once per process, and removed at exit. */
let stored: { file: StateFile; path: string } | null = null;

function newFile(): { file: StateFile; path: string } {
  const folder = mkdtempSync(join(tmpdir(), "heartline-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  const file = new StateFile(folder, "columbia", "127.0.0.1", 6001, () => {});
  file.save(GOOD);
  return { file, path: join(folder, readdirSync(folder)[0]!) };
}

const value = fc.oneof(
  fc.constantFrom(null, 0, 5, -1, 1.5, 1e300, TOKEN, "", "x y", [TOKEN], [], {}, true),
  fc.jsonValue({ maxDepth: 2 }),
);
const request = fc.oneof(
  fc.record(
    { line: fc.oneof(fc.constantFrom("alive 5", "", "two\nlines"), value), position: value },
    { requiredKeys: [] },
  ),
  value,
);

const content = fc.oneof(
  {
    weight: 6,
    arbitrary: fc
      .record(
        {
          token: fc.oneof(fc.constant(TOKEN), value),
          received: fc.oneof(fc.nat(), value),
          unanswered: fc.oneof(fc.array(request, { maxLength: 3 }), value),
        },
        { requiredKeys: [] },
      )
      .map((state) => JSON.stringify(state)),
  },
  value.map((one) => JSON.stringify(one)),
  fc.nat({ max: 100 }).map((count) => JSON.stringify(GOOD).slice(0, count)),
  fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes).toString("latin1")),
);

function isPosition(value: unknown): boolean {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

export const stateFile = target(
  { name: "state-file", holds: "any state file gives a valid state or none" },
  content,
  (text) => {
    const { file, path } = (stored ??= newFile());
    writeFileSync(path, latin1(text));
    const state = file.load();
    if (state === null) return;
    expectThat(typeof state.token === "string" && /^[\w-]{22,64}$/.test(state.token), () => "a token");
    expectThat(isPosition(state.received), () => "a position");
    for (const { line, position } of state.unanswered) {
      expectThat(typeof line === "string" && /^[^\n]+$/.test(line) && isPosition(position), () => "a request");
    }
    file.save(state);
    expectAlike(file.load(), state, "the state after it was saved again");
  },
);
