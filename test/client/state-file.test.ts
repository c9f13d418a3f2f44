import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { StateFile } from "../../src/client/state-file.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const file = new StateFile(folder, "columbia", "127.0.0.1", 6001, () => {});
const STATE = { token: "A".repeat(22), received: 5, unanswered: [{ line: "message SEAS hi", position: 16 }] };

afterAll(() => rmSync(folder, { recursive: true }));

test.each([
  ["null", "null"],
  ["no state", "{}"],
  ["a token that is no text", JSON.stringify({ ...STATE, token: [STATE.token] })],
  ["a position below 0", JSON.stringify({ ...STATE, received: -1 })],
  ["a request that is none", JSON.stringify({ ...STATE, unanswered: [null] })],
  ["a request without a line", JSON.stringify({ ...STATE, unanswered: [{ position: 1 }] })],
  ["a request of two lines", JSON.stringify({ ...STATE, unanswered: [{ line: "alive\nlogout", position: 1 }] })],
  ["a request without a position", JSON.stringify({ ...STATE, unanswered: [{ line: "alive", position: "1" }] })],
  ["half of it", JSON.stringify(STATE).slice(0, 60)],
])("a file that somebody wrote into holds no state: %s", (_, content) => {
  file.save(STATE);
  expect(file.load()).toEqual(STATE);
  writeFileSync(join(folder, readdirSync(folder)[0]!), content);
  expect(file.load()).toBeNull();
});
