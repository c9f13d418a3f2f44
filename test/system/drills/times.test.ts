import { afterEach, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { newFolder, removeFolders } from "../../support/folders.ts";
import { logOf } from "../chaos/clients.ts";
import { longestGapMs, percentile, timesIn } from "./times.ts";

afterEach(removeFolders);

test("the logs of two users give the times of each message and of each lost connection", () => {
  const folder = newFolder();
  const first = [
    "run",
    "i u1 1 1000",
    "o u1 1 ok 1200",
    "i u1 2 1300",
    "n u1 2 busy 1400",
    "lost 2000",
    "back 2500",
    "",
  ];
  writeFileSync(logOf(folder, "u0"), first.join("\n"));
  writeFileSync(logOf(folder, "u1"), ["r u0 1 1150", "i * 1 1500", "lost 3000", ""].join("\n"));
  const never = Number.POSITIVE_INFINITY;
  expect(timesIn(folder, 2)).toEqual({
    messages: [
      { from: "u0", to: "u1", sentMs: 1000, repliedMs: 1200, isAccepted: true, shownMs: 1150 },
      { from: "u0", to: "u1", sentMs: 1300, repliedMs: 1400, isAccepted: false, shownMs: never },
    ],
    losses: [
      { user: "u0", lostMs: 2000, backMs: 2500 },
      { user: "u1", lostMs: 3000, backMs: never },
    ],
  });
});

test("the longest gap counts from the first limit and up to the last one", () => {
  expect(longestGapMs([500, 1_500, 2_000, 9_000], 1_000, 3_500)).toBe(1_500);
  expect(longestGapMs([], 1_000, 3_500)).toBe(2_500);
  expect([percentile([3, 1, 2], 0.99), percentile([3, 1, 2], 0.5), percentile([], 0.5)]).toEqual([3, 2, 0]);
});
