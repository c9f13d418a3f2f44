import { expect, test } from "bun:test";
import { printable } from "../../src/terminal/display.ts";
import { helpPage, isPage } from "../../src/terminal/help.ts";
import { rowsOf } from "../../src/terminal/rows.ts";

const PAGES = ["", "talk", "people", "private", "screen", "all"];

test("each page fits 80 columns without a broken line, and 20 rows except the one with everything", () => {
  for (const slash of ["", "/"])
    for (const page of PAGES) {
      const lines = helpPage(page, 80, slash);
      expect(lines.filter((line) => line.length > 80)).toEqual([]);
      if (page !== "all") expect(lines.length).toBeLessThan(20);
    }
});

test("with 40 columns each explanation is under its command, and no word is broken", () => {
  for (const page of PAGES)
    for (const line of helpPage(page, 40, "/")) {
      const words = rowsOf(printable(line), 40, 6).flatMap((row) => row.trim().split(/ +/));
      expect(words.join(" ")).toBe(line.trim().replace(/ +/g, " "));
    }
});

test("the first page names the other ones, and all pages together have every command", () => {
  expect(helpPage("", 80, "/").at(-1)).toBe("More: /help private, /help screen");
  const all = helpPage("all", 80, "/").join("\n");
  for (const word of [
    "/message",
    "/broadcast",
    "/online",
    "/private",
    "/to",
    "/r",
    "/find",
    "/bell",
    "/presence",
    "Tab",
  ])
    expect(all).toContain(`\n  ${word}`);
  expect(isPage("cooking")).toBe(false);
});

test("the commands of the server have a slash only while plain lines are not commands", () => {
  expect(helpPage("", 80, "").join("\n")).toMatch(/\n {2}message <user> <text> /);
  expect(helpPage("", 80, "/").join("\n")).toMatch(/\n {2}\/message <user> <text> /);
});
