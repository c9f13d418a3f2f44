import { describe, expect, test } from "bun:test";
import { decode } from "../../src/client/event.ts";
import { Display, printable } from "../../src/terminal/display.ts";
import { RecentLines } from "../../src/terminal/recent-lines.ts";
import { rendered, rowsOf, widthOf } from "../../src/terminal/rows.ts";

/** Decodes a text that is given with one character per byte. */
function textOf(bytes: string): string {
  const buffer = Buffer.from(bytes, "latin1");
  return decode(buffer, 0, buffer.length);
}

describe("a line on a terminal", () => {
  const COLUMNS = 20;
  const colored = new Display(true);
  const rows = (text: string): string[] => rowsOf(colored.event({ kind: "message", from: "bob", text }), COLUMNS);

  test.each([
    ["spaces", `lunch?${" ".repeat(9)}carol: the meeting moved`],
    ["spaces over several rows", `lunch?${" ".repeat(27)}carol: the meeting moved`],
    ["wide characters", `${"日".repeat(7)} carol: the meeting moved`],
    ["combining marks", `${"e\u0301".repeat(15)}carol: the meeting moved`],
    ["emoji of several parts", `${"👩‍💻".repeat(4)}carol: the meeting moved`],
    ["emoji that a selector makes wide", `${"❤️".repeat(8)}carol: the meeting moved`],
    ["flags", `${"🇩🇪".repeat(8)}carol: the meeting moved`],
    ["tabs", `lunch?${"\t".repeat(9)}carol: the meeting moved`],
    ["bytes that are not UTF-8", textOf(`${"\xff".repeat(15)}carol: the meeting moved`)],
    ["a name in the middle of a row", "carol: ".repeat(12)],
  ])("continues in indented rows, none too wide, when its text has %s", (_, text) => {
    const [first = "", ...more] = rows(text);
    expect(first).toContain("\x1b[1mbob\x1b[22m");
    expect(more.length).toBeGreaterThan(0);
    for (const row of more) expect(row).toMatch(/^ {2}/);
    for (const row of [first.replace(/\x1b\[\d+m/g, ""), ...more]) expect(widthOf(row)).toBeLessThanOrEqual(COLUMNS);
    // Nothing is lost but spaces at the ends of rows.
    const shown = [first, ...more.map((row) => row.slice(2))].join("");
    const line = colored.event({ kind: "message", from: "bob", text }).toWellFormed();
    expect(shown.replaceAll(" ", "")).toBe(line.replaceAll(" ", ""));
    expect(line.length - shown.length).toBeLessThanOrEqual(more.length);
  });

  test("continues in an indented row after an emoji that is wider than the terminal", () => {
    const emoji = "👩‍".repeat(15);
    expect(rows(`${emoji} carol: moved`).slice(1)).toEqual([`  ${emoji}`, "  carol: moved"]);
  });

  test("is written with autowrap off when it has a character whose width terminals disagree about", () => {
    const line = printable("日本");
    expect(Buffer.from(rendered(line, { isTTY: true, columns: 20 })).toString()).toBe("\x1b[?7l日本\x1b[?7h\n");
    expect(Buffer.from(rendered(printable("ok"), { isTTY: true, columns: 20 })).toString()).toBe("ok\n");
  });

  test("is not broken when the output is a pipe", () => {
    expect(Buffer.from(rendered(printable("x".repeat(500)), {})).toString()).toBe(`${"x".repeat(500)}\n`);
  });

  test("is broken at words, under the indent that it is given", () => {
    const line = printable("12:34 bob: the quick brown fox jumps");
    expect(rowsOf(line, 20, 6)).toEqual(["12:34 bob: the quick", "      brown fox", "      jumps"]);
    expect(rowsOf(printable("12:34 日本語 größe über alles"), 20, 6)).toEqual([
      "12:34 日本語 größe",
      "      über alles",
    ]);
  });

  test("is broken inside a word that is wider than a row", () => {
    expect(rowsOf(printable(`see ${"x".repeat(30)}`), 20, 6)).toEqual([
      `see ${"x".repeat(16)}`,
      `      ${"x".repeat(14)}`,
    ]);
    expect(rowsOf(printable(`é ${"x".repeat(30)}`), 20, 6)).toEqual([`é ${"x".repeat(18)}`, `      ${"x".repeat(12)}`]);
  });

  test("keeps its colours on the right words when it is broken", () => {
    const rows = rowsOf(colored.note("the quick brown fox jumps over"), 20);
    expect(rows).toEqual(["\x1b[2mthe quick brown fox", "  jumps over\x1b[22m"]);
  });

  test("is not written with escape sequences for a terminal without them", () => {
    const line = printable("日本");
    expect(Buffer.from(rendered(line, { isTTY: true, columns: 20, hasEscapes: false })).toString()).toBe("日本\n");
  });
});

describe("lines on a terminal that becomes narrower", () => {
  const line = (text: string) => printable(text);

  test("are printed again when one of those on the screen was broken, from the first that is visible", () => {
    const recent = new RecentLines();
    recent.add([line("x".repeat(50)), line("short"), line("y".repeat(50))], 60);
    expect(recent.broken(60, 20)).toBeNull();
    expect(recent.broken(80, 20)).toBeNull();
    // 50 columns are now 2 rows of 30.
    expect(recent.broken(30, 20)).toMatchObject({ lines: ["x".repeat(50), "short", "y".repeat(50)], rows: 5 });
    expect(recent.broken(30, 20)).toBeNull();
    recent.add([line("z".repeat(25))], 30);
    expect(recent.broken(20, 3)).toMatchObject({ lines: ["y".repeat(50), "z".repeat(25)], rows: 3 });
  });
});
