import { describe, expect, test } from "bun:test";
import type { UserEvent } from "heartline/client";
import { Display, hasUtf8, printable } from "../../src/terminal/display.ts";
import { rendered, rowsOf } from "../../src/terminal/rows.ts";
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
  const words = (event: UserEvent): string => new Display(false).event(event);

  test("has the sender, the recipients and the time", () => {
    expect(words({ kind: "message", from: "bob", text: "hi" })).toBe("bob: hi");
    expect(words({ kind: "broadcast", from: "bob", text: "hi" })).toBe("bob to all: hi");
    expect(words({ kind: "stored", from: "bob", unixMs: Date.UTC(2026, 0, 2, 3, 4), text: "hi" })).toMatch(
      /^bob on 2026-01-0\d \d\d:\d\d: hi$/,
    );
    expect(words({ kind: "joined", user: "bob" })).toBe("* bob is here");
    expect(words({ kind: "left", user: "bob", reason: "expired" })).toBe("* bob left (expired)");
  });

  test.each<[UserEvent, string]>([
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
    const colored = new Display(true);
    expect(colored.event({ kind: "message", from: "bob", text: "hi" })).toContain("\x1b[1mbob");
    expect(words({ kind: "message", from: "bob", text: "hi" })).not.toContain("\x1b");
  });

  test("has the same colour for a name each time, and not one for all names", () => {
    const colored = new Display(true);
    const color = (from: string): string => /^\x1b\[\d+m/.exec(colored.event({ kind: "message", from, text: "" }))![0];
    expect(color("bob")).toBe(color("bob"));
    expect(new Set(["alice", "bob", "carol", "dave", "eve", "frank"].map(color)).size).toBeGreaterThan(2);
  });
});

test("the text of this user has its state as a symbol, or in words without UTF-8 or colours", () => {
  expect<string>(new Display(false).own("sent", "SEAS", "hi", false)).toBe("(sent) to SEAS: hi");
  expect<string>(new Display(false, true).own("stored", "SEAS", "hi", false)).toBe("\u2709 to SEAS: hi");
  expect<string>(new Display(false, true).own("waiting", "all", "hi", false)).toBe("\u2026 to all: hi");
  expect<string>(new Display(false, true).own("sent", "SEAS", "hi", true)).toBe("\u2713 [private] to SEAS: hi");
});

test("a locale without UTF-8 is found in the variable that counts", () => {
  expect(hasUtf8({ LANG: "C" })).toBe(false);
  expect(hasUtf8({ LANG: "C.UTF-8" })).toBe(true);
  expect(hasUtf8({ LANG: "en_US.utf8", LC_ALL: "POSIX" })).toBe(false);
  expect(hasUtf8({ LANG: "C", LC_CTYPE: "de_DE.UTF-8" })).toBe(true);
  expect(hasUtf8({})).toBe(true);
});

test("the line of a day has its name", () => {
  expect<string>(new Display(false).day(Date.UTC(2026, 10, 30, 12))).toBe("-- Monday 2026-11-30 --");
});
