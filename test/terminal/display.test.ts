import { describe, expect, test } from "bun:test";
import type { ChatEvent } from "heartline/client";
import { Display, printable, rendered, rowsOf, widthOf } from "../../src/terminal/display.ts";
import { decode } from "../../src/client/event.ts";

/** Decodes a text that is given with one character per byte. */
function textOf(bytes: string): string {
  const buffer = Buffer.from(bytes, "latin1");
  return decode(buffer, 0, buffer.length);
}

function filter(text: string): string {
  return printable(text);
}

describe("the text of another user", () => {
  test.each([
    ["soft hyphen", "\u00ad"],
    ["zero-width space", "\u200b"],
    ["word joiner", "\u2060"],
    ["byte order mark", "\ufeff"],
    ["Mongolian vowel separator", "\u180e"],
    ["Hangul fillers", "\u3164\u115f\u1160\uffa0"],
    ["tags", "\u{e0001}\u{e0041}\u{e007f}"],
    ["interlinear annotation", "\ufff9\ufffa\ufffb"],
    ["musical format controls", "\u{1d173}"],
  ])("loses invisible characters: %s", (_, invisible) => {
    expect(filter(`a${invisible}b`)).toBe("ab");
  });

  test("keeps joiners and variation selectors, which emoji and the Persian and Indic scripts need", () => {
    for (const text of ["👩‍💻", "❤️", "می‌خواهم", "क्‍ष", "葛\u{e0100}"]) expect(filter(text)).toBe(text);
  });

  test("keeps bytes that are not UTF-8 in a pipe, and shows each as U+FFFD on a terminal", () => {
    const line = printable(textOf("caf\xe9 \xff\xc3"));
    expect(Buffer.from(rendered(line, {})).toString("latin1")).toBe("caf\xe9 \xff\xc3\n");
    expect(rowsOf(line)).toEqual(["caf\ufffd \ufffd\ufffd"]);
  });

  test("gets no control character when the filter makes two bytes neighbours", () => {
    const line = printable(textOf("a\xc2\xe2\x80\xae\x9b2J"));
    expect(Buffer.from(rendered(line, {})).toString("latin1")).toBe("a2J\n");
  });

  test("loses C0 and C1 controls, including those of escape sequences and line ends", () => {
    expect(filter("a\x1b[31mred\x07\x9b2J\r\nb\x7f")).toBe("a[31mred2Jb");
  });

  test("loses overrides of the writing direction, and line and paragraph separators", () => {
    expect(filter("a\u202eb\u2066c\u200fd\u061ce\u2028f")).toBe("abcdef");
  });

  test("keeps letters of all scripts and emoji; a tab becomes a space", () => {
    expect(filter("größe 日本語 👋\tok")).toBe("größe 日本語 👋 ok");
  });
});

describe("an event in words", () => {
  const words = (event: ChatEvent): string => new Display(false).event(event);

  test("has the sender, the recipients and the time", () => {
    expect(words({ kind: "message", from: "bob", text: "hi" })).toBe("bob: hi");
    expect(words({ kind: "broadcast", from: "bob", text: "hi" })).toBe("bob to all: hi");
    expect(words({ kind: "stored", from: "bob", unixMs: Date.UTC(2026, 0, 2, 3, 4), text: "hi" })).toMatch(
      /^bob on 2026-01-0\d \d\d:\d\d: hi$/,
    );
    expect(words({ kind: "joined", user: "bob" })).toBe("* bob is here");
    expect(words({ kind: "left", user: "bob", reason: "expired" })).toBe("* bob left (expired)");
  });

  test.each<[ChatEvent, string]>([
    [{ kind: "private", from: "bob", text: "psst" }, "[private] bob: psst"],
    [{ kind: "asked", user: "bob", encrypted: true }, "? bob asks for a private chat; answer with: yes bob, or no bob"],
    [
      { kind: "asked", user: "bob", encrypted: false },
      "* bob asks for a private chat without encryption; this client refused it",
    ],
    [
      { kind: "agreed", user: "bob", host: "192.0.2.1", port: 5, encrypted: true },
      "* bob agrees to a private chat: private bob <text> sends directly to 192.0.2.1:5",
    ],
    [
      { kind: "agreed", user: "bob", host: "2001:db8::1", port: 5, encrypted: true },
      "* bob agrees to a private chat: private bob <text> sends directly to [2001:db8::1]:5",
    ],
    [
      { kind: "agreed", user: "bob", host: "192.0.2.1", port: 5, encrypted: false },
      "* bob agrees to a private chat without encryption; this client does not start it",
    ],
    [{ kind: "invited", user: "bob" }, "* bob can send you private messages now; answer with: private bob <text>"],
    [{ kind: "denied", user: "bob" }, "* bob refused the private chat, did not answer, or is not here"],
    [{ kind: "parted", user: "bob" }, "* the private chat with bob has ended"],
    [
      { kind: "unreachable", user: "bob" },
      "* bob cannot be reached directly; to send through the server: message bob <text>",
    ],
    [{ kind: "impostor", user: "bob" }, "* another program answers at the address of bob; nothing was sent to it"],
  ])("of a private chat says what happened and what to type: %p", (event, expected) => {
    expect(words(event)).toBe(expected);
  });

  test("of a goodbye with an unknown reason has that reason", () => {
    expect(words({ kind: "goodbye", reason: "tired" })).toBe("The server ended the session (tired).");
  });

  test.each(["constructor", "__proto__", "toString"])(
    "of a goodbye with a property name as its reason: %s",
    (reason) => {
      expect(words({ kind: "goodbye", reason })).toBe(`The server ended the session (${reason}).`);
    },
  );

  test("has a text for a time that is out of range in one time zone only", () => {
    const { TZ } = process.env;
    try {
      for (const zone of ["Pacific/Kiritimati", "America/Los_Angeles"]) {
        process.env.TZ = zone;
        for (const unixMs of [8.64e15, -8.64e15]) {
          expect(words({ kind: "stored", from: "bob", unixMs, text: "hi" })).toMatch(/^bob on .+: hi$/);
        }
      }
    } finally {
      if (TZ === undefined) delete process.env.TZ;
      else process.env.TZ = TZ;
    }
  });

  test("loses control characters in the names and reasons of a hostile server", () => {
    expect(words({ kind: "notice", text: "a\x1b[2J" })).toBe("* notice of the operator: a[2J");
    expect(words({ kind: "goodbye", reason: "kicked", words: "a\x1b[2J" })).toEndWith(": a[2J");
    expect(words({ kind: "goodbye", reason: "x\x1b[2J" })).toBe("The server ended the session (x[2J).");
    expect(words({ kind: "left", user: "b\x1bob", reason: "x\x1b[2J" })).toBe("* bob left (x[2J)");
  });

  test("has a question mark for a time that is not a number", () => {
    expect(words({ kind: "stored", from: "bob", unixMs: Number.NaN, text: "hi" })).toBe("bob on ?: hi");
  });

  test("has colours only when the display is created with colours", () => {
    expect(words({ kind: "message", from: "bob", text: "hi" })).not.toContain("\x1b");
    expect(new Display(true).event({ kind: "message", from: "bob", text: "hi" })).toContain("\x1b[1mbob");
  });
});

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
    expect(first).toStartWith("\x1b[1mbob\x1b[22m: ");
    expect(more.length).toBeGreaterThan(0);
    for (const row of more) expect(row).toMatch(/^ {2}/);
    for (const row of [first.replace(/\x1b\[\d+m/g, ""), ...more]) expect(widthOf(row)).toBeLessThanOrEqual(COLUMNS);
    expect([first, ...more.map((row) => row.slice(2))].join("")).toBe(
      colored.event({ kind: "message", from: "bob", text }).toWellFormed(),
    );
  });

  test("continues in an indented row after an emoji that is wider than the terminal", () => {
    const emoji = "👩‍".repeat(15);
    expect(rows(`${emoji} carol: moved`).slice(1)).toEqual([`  ${emoji}`, "   carol: moved"]);
  });

  test("is written with autowrap off when it has a character whose width terminals disagree about", () => {
    const line = printable("日本");
    expect(Buffer.from(rendered(line, { isTTY: true, columns: 20 })).toString()).toBe("\x1b[?7l日本\x1b[?7h\n");
    expect(Buffer.from(rendered(printable("ok"), { isTTY: true, columns: 20 })).toString()).toBe("ok\n");
  });

  test("is not broken when the output is a pipe", () => {
    expect(Buffer.from(rendered(printable("x".repeat(500)), {})).toString()).toBe(`${"x".repeat(500)}\n`);
  });
});
