import { describe, expect, test } from "bun:test";
import type { ChatEvent } from "heartline/client";
import { Display, printable } from "../../src/client/display.ts";

describe("text of others", () => {
  test("loses C0 and C1 controls, escape sequences and line ends", () => {
    expect(printable("a\x1b[31mred\x07\x9b2J\r\nb\x7f")).toBe("a[31mred2Jb");
  });

  test("loses what changes the direction of writing, and separators that a terminal may break lines at", () => {
    expect(printable("a\u202eb\u2066c\u200fd\u061ce\u2028f")).toBe("abcdef");
  });

  test("keeps letters of all scripts and emoji; a tab becomes a space", () => {
    expect(printable("größe 日本語 👋\tok")).toBe("größe 日本語 👋 ok");
  });
});

describe("events in words", () => {
  const plain = new Display(false);

  test("say who, to whom and when", () => {
    expect(plain.event({ kind: "message", from: "bob", text: "hi" })).toBe("bob: hi");
    expect(plain.event({ kind: "broadcast", from: "bob", text: "hi" })).toBe("bob to all: hi");
    expect(plain.event({ kind: "stored", from: "bob", unixMs: Date.UTC(2026, 0, 2, 3, 4), text: "hi" })).toMatch(
      /^bob on 2026-01-0\d \d\d:\d\d: hi$/,
    );
    expect(plain.event({ kind: "joined", user: "bob" })).toBe("* bob is here");
    expect(plain.event({ kind: "left", user: "bob", reason: "expired" })).toBe("* bob left (expired)");
  });

  test.each<[ChatEvent, string]>([
    [{ kind: "private", from: "bob", text: "psst" }, "[private] bob: psst"],
    [{ kind: "asked", user: "bob", encrypted: true }, "? bob asks to chat privately: yes bob, or no bob"],
    [
      { kind: "asked", user: "bob", encrypted: false },
      "* bob asks to chat privately, but not encrypted; the answer was no",
    ],
    [
      { kind: "agreed", user: "bob", host: "192.0.2.1", port: 5, encrypted: true },
      "* bob agrees: private bob <text> goes straight to 192.0.2.1:5",
    ],
    [
      { kind: "agreed", user: "bob", host: "2001:db8::1", port: 5, encrypted: true },
      "* bob agrees: private bob <text> goes straight to [2001:db8::1]:5",
    ],
    [{ kind: "denied", user: "bob" }, "* bob does not agree to a private chat, or is not here"],
    [{ kind: "unreachable", user: "bob" }, "* bob cannot be reached privately for now"],
    [{ kind: "impostor", user: "bob" }, "* whoever answers at the address of bob is somebody else; nothing was said"],
  ])("tell of private chats: %p", (event, words) => {
    expect(plain.event(event)).toBe(words);
  });

  test("name a goodbye that this client does not know", () => {
    expect(plain.event({ kind: "goodbye", reason: "tired" })).toBe("The server ended the session (tired).");
  });

  test.each(["constructor", "__proto__", "toString"])("name a goodbye that every object knows: %s", (reason) => {
    expect(plain.event({ kind: "goodbye", reason })).toBe(`The server ended the session (${reason}).`);
  });

  test("survive a time that is none in some time zone only", () => {
    const { TZ } = process.env;
    try {
      for (const zone of ["Pacific/Kiritimati", "America/Los_Angeles"]) {
        process.env.TZ = zone;
        for (const unixMs of [8.64e15, -8.64e15]) {
          expect(plain.event({ kind: "stored", from: "bob", unixMs, text: "hi" })).toMatch(/^bob on .+: hi$/);
        }
      }
    } finally {
      if (TZ === undefined) delete process.env.TZ;
      else process.env.TZ = TZ;
    }
  });

  test("strip what a hostile server puts into names and reasons", () => {
    expect(plain.event({ kind: "left", user: "b\x1bob", reason: "x\x1b[2J" })).toBe("* bob left (x[2J)");
  });

  test("survive a time that is none", () => {
    expect(plain.event({ kind: "stored", from: "bob", unixMs: Number.NaN, text: "hi" })).toBe("bob on ?: hi");
  });

  test("have colours only when asked for", () => {
    expect(plain.event({ kind: "message", from: "bob", text: "hi" })).not.toContain("\x1b");
    expect(new Display(true).event({ kind: "message", from: "bob", text: "hi" })).toContain("\x1b[1mbob");
  });
});
