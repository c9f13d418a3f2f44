import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import { KeySplitter, QUIET_MS } from "../../src/terminal/keys.ts";

const [START, END] = ["\x1b[200~", "\x1b[201~"];

beforeEach(() => void jest.useFakeTimers());
afterEach(() => void jest.useRealTimers());

/** Feeds reads, with a pause of `pauseMs` after each; returns what was reported. */
function report(reads: readonly (string | Uint8Array)[], pauseMs = 0, isQuestion = false): string[] {
  const actions: string[] = [];
  const splitter = new KeySplitter({
    keys: (text) => {
      if (actions.at(-1)?.startsWith("keys ")) actions.push(actions.pop() + text);
      else actions.push(`keys ${text}`);
    },
    enter: () => actions.push("enter"),
    tab: () => actions.push("tab"),
    escape: () => actions.push("escape"),
    interrupt: () => actions.push("interrupt"),
    end: () => actions.push("end"),
    paste: (text) => actions.push(`paste ${text}`),
    burst: (text) => actions.push(`burst ${text}`),
    focus: (hasFocus) => actions.push(`focus ${hasFocus}`),
  });
  splitter.isQuestion = isQuestion;
  for (const read of reads) {
    splitter.feed(Buffer.from(read as string));
    if (pauseMs > 0) jest.advanceTimersByTime(pauseMs);
  }
  jest.advanceTimersByTime(1000);
  splitter.stop();
  return actions;
}

/** All ways to cut bytes into two reads, and into three. */
function* cuts(text: string): Generator<Uint8Array[]> {
  const bytes = Buffer.from(text);
  for (let a = 0; a <= bytes.length; a++)
    for (let b = a; b <= bytes.length; b++)
      yield [bytes.subarray(0, a), bytes.subarray(a, b), bytes.subarray(b)].filter((part) => part.length > 0);
}

const PAUSES = [0, 1, QUIET_MS - 1, QUIET_MS + 1, 500];

describe("a bracketed paste", () => {
  test.each([
    "secret\rlogout\rbye\r",
    "one\nlogout\n",
    "größe 日本 👩‍💻\r",
    "\tindented\r\n\x1b[A\x03\x04",
    "[200~ 201~ \x1b[20",
    "",
  ])("is reported as one text wherever reads cut it, and nothing of it acts: %j", (text) => {
    for (const pauseMs of PAUSES)
      for (const reads of cuts(START + text + END)) {
        if (text.includes("\x03") && reads.some((read) => Buffer.from(read).toString() === "\x03")) continue;
        const actions = report(reads, pauseMs).filter((action) => action !== "escape");
        expect([actions, reads.map((read) => Buffer.from(read).toString()), pauseMs]).toEqual([
          [`paste ${text}`],
          expect.anything(),
          pauseMs,
        ]);
      }
  });

  test("leaves what was typed before and Enter after it as keys", () => {
    expect(report([`ab${START}one\rtwo${END}`, "\r"], 100)).toEqual(["keys ab", "paste one\rtwo", "enter"]);
    expect(report([`ab${START}one\rtwo${END}\r`])).toEqual(["keys ab", "paste one\rtwo", "enter"]);
  });

  test("with the end mark in its text never acts: the terminal's own end mark follows its line end", () => {
    for (const pauseMs of [0, 1, QUIET_MS - 1]) {
      for (const reads of cuts(`${START}a${END}logout\r${END}`)) {
        const actions = report(reads, pauseMs);
        expect(actions).not.toContain("enter");
      }
    }
  });

  test("with the end mark in its text does not act either when a slow line cuts the terminal's own end mark", () => {
    for (let length = 2; length < END.length; length++) {
      const reads = [`${START}a${END}logout\r${END.slice(0, length)}`, END.slice(length)];
      expect(report(reads, 10 * QUIET_MS)).not.toContain("enter");
    }
  });

  test("that begins right after Enter keeps it from acting, however slowly it arrives", () => {
    expect(report([`logout\r${START}a`, `b${END}`], 10 * QUIET_MS)).toEqual(["burst logout\rab"]);
  });

  test("of megabytes in small reads is one text, and takes no time that grows with its square", () => {
    const line = `${"x".repeat(99)}\r`;
    const reads = [START, ...Array.from({ length: 40_000 }, () => line), END];
    expect(report(reads)).toEqual([`paste ${line.repeat(40_000)}`]);
  });

  test("whose end mark is lost is ended by Ctrl+C", () => {
    expect(report([`${START}one\r`, "\x03", "hi"])).toEqual(["interrupt", "keys hi"]);
  });
});

describe("several lines without the marks of a paste", () => {
  test.each(["secret\rlogout\rbye\r", "secret\nlogout", "\tsecret\rlogout\r", "a\r\nlogout\r\n"])(
    "never act, wherever reads without a pause cut them: %j",
    (text) => {
      for (const pauseMs of [0, 1, QUIET_MS - 1])
        for (const reads of cuts(text)) {
          const actions = report(reads, pauseMs);
          expect(actions).not.toContain("enter");
          expect(actions).not.toContain("tab");
          expect(actions.map((action) => action.replace(/^(burst|keys) /, "")).join("")).toBe(text);
        }
    },
  );
});

describe("a key", () => {
  test("acts when nothing follows it: Enter, Tab and Esc after a pause, Ctrl+C and Ctrl+D at once", () => {
    expect(report(["hello\r"])).toEqual(["keys hello", "enter"]);
    expect(report(["hello", "\r"], 100)).toEqual(["keys hello", "enter"]);
    expect(report(["\r\r"])).toEqual(["enter"]);
    expect(report(["mes\t"])).toEqual(["keys mes", "tab"]);
    expect(report(["\t", "\t"], 100)).toEqual(["tab", "tab"]);
    expect(report(["\x1b"])).toEqual(["escape"]);
    expect(report(["half\x03"])).toEqual(["keys half", "interrupt"]);
    expect(report(["\x04"])).toEqual(["end"]);
  });

  test("after Enter without a pause ends the burst before it, since no pasted text has its sequence", () => {
    expect(report(["online\r\x1b[A"])).toEqual(["keys online", "enter", "keys \x1b[A"]);
  });

  test("of more than one byte reaches the editor whole, wherever reads cut it", () => {
    for (const key of ["\x1b[A", "\x1b[2~", "\x1bOP", "\x1bf", "\x1b[1;5C", "é", "👩‍💻"])
      for (const reads of cuts(key)) expect(report(reads)).toEqual([`keys ${key}`]);
  });

  test("Esc, and then `[` later, are Esc and `[`", () => {
    expect(report(["\x1b", "[", "a"], 500)).toEqual(["escape", "keys [a"]);
  });

  test("U+2028 and U+2029 are spaces", () => {
    expect(report(["a\u2028b\u2029c"])).toEqual(["keys a b c"]);
  });
});

test("reports of the focus are no keys, wherever reads cut them, and do not keep Enter from acting", () => {
  for (const reads of cuts("\x1b[O\x1b[I")) expect(report(reads)).toEqual(["focus false", "focus true"]);
  expect(report(["hi\r\x1b[O"])).toEqual(["focus false", "keys hi", "enter"]);
});

test("at a question Enter and Tab reach the editor at once", () => {
  expect(report(["columbia\rsecret\r"], 0, true)).toEqual(["keys columbia\rsecret\r"]);
});
