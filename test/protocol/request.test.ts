import { describe, expect, test } from "bun:test";
import { isIPv4 } from "node:net";
import fc from "fast-check";
import { isName, isToken, parseNumber } from "../../src/protocol/ascii.ts";
import { Request, SHAPES, type Verb, isOtherProtocol } from "../../src/protocol/request.ts";
import { seedFor } from "../support/random.ts";

const VERBS = Object.keys(SHAPES) as Verb[];

/** A parsed request; `words` is null when they do not have the shape of the verb. */
interface Parsed {
  verb: Verb | null;
  words: string[] | null;
  text: string | null;
}

/** One object for all lines, as in a connection: state of an earlier line must not matter. */
const request = new Request();

/** Parses a line within a chunk, between other lines that the parser must not read. */
function parseBytes(line: Uint8Array): Parsed {
  const before = Buffer.from("message bob 1\n");
  const chunk = Buffer.concat([before, line, Buffer.from(" 2 message bob more words\n")]);
  const start = before.length;
  const end = start + line.length;
  const verb = request.parseVerb(chunk, start, end);
  if (verb === null) return { verb, words: null, text: null };
  const shape = SHAPES[verb];
  if (!request.parseWords(shape)) return { verb, words: null, text: null };
  const words: string[] = [];
  for (let i = 0; i < request.words; i++) {
    expect(request.ends[i]!).toBeLessThanOrEqual(end);
    words.push(chunk.toString("latin1", request.starts[i]!, request.ends[i]!));
  }
  expect(request.end).toBe(end);
  return { verb, words, text: shape.rest === "text" ? chunk.toString("latin1", request.textStart, request.end) : null };
}

/** Each character is one byte. */
function parse(line: string): Parsed {
  return parseBytes(Buffer.from(line, "latin1"));
}

function within(text: string, ask: (bytes: Uint8Array, start: number, end: number) => boolean): boolean {
  // Letters and digits around it: a check beyond the word would give another result.
  return ask(Buffer.from(`a.1${text}1.a`, "latin1"), 3, 3 + text.length);
}

describe("the verb", () => {
  test("the verb is the first word, and each row of the table is found", () => {
    for (const verb of VERBS) {
      expect(parse(verb).verb).toBe(verb);
      expect(parse(`${verb} and more`).verb).toBe(verb);
      expect(parse(`${verb} `).verb).toBe(verb);
    }
  });

  test("a verb is known in its exact lower-case spelling only", () => {
    for (const verb of VERBS) {
      const wrong = [verb.slice(0, -1), `${verb}s`, `x${verb.slice(1)}`, verb.toUpperCase(), ` ${verb}`, `${verb}\t`];
      for (const line of wrong) expect(parse(line)).toEqual({ verb: null, words: null, text: null });
    }
  });

  test("an empty line and a line of spaces have no known verb", () => {
    expect(parse("").verb).toBeNull();
    expect(parse(" ").verb).toBeNull();
    expect(parse("   ").verb).toBeNull();
  });
});

describe("the words", () => {
  test.each([
    ["login alice secret", ["alice", "secret"]],
    ["login alice pass\xe4\xff\x01 resumable listen=7000", ["alice", "pass\xe4\xff\x01", "resumable", "listen=7000"]],
    ["online", []],
    ["block bob", ["bob"]],
    ["unblock bob", ["bob"]],
    ["alive", []],
    ["alive 0", ["0"]],
    ["alive 9007199254740991", ["9007199254740991"]],
    ["logout", []],
    ["logout 12", ["12"]],
  ])("of `%s` have the verb's shape", (line, words) => {
    expect(parse(line)).toMatchObject({ words, text: null });
  });

  test.each([
    ["message bob hello", ["bob"], "hello"],
    ["message bob x", ["bob"], "x"],
    ["message bob  two spaces ", ["bob"], " two spaces "],
    ["message bob  ", ["bob"], " "],
    ["message bob \xff\x00\r\x1b[31m", ["bob"], "\xff\x00\r\x1b[31m"],
    ["broadcast hello all", [], "hello all"],
    ["broadcast  ", [], " "],
  ])("of `%j` end where its text begins, which is the rest of the line byte for byte", (line, words, text) => {
    expect(parse(line)).toMatchObject({ words, text });
  });

  test.each([
    "login",
    "login ",
    "login alice",
    "login alice ",
    "login  secret",
    "login alice  resumable",
    "login alice secret ",
    "login alice secret  resumable",
    "login alice secret resumable ",
    "login .alice secret",
    "message",
    "message ",
    "message bob",
    "message bob ",
    "message  bob hello",
    "message b/b hello",
    "broadcast",
    "broadcast ",
    "online ",
    "online now",
    "block",
    "block ",
    "block bob ",
    "block bob carol",
    "block  bob",
    "block -bob",
    "unblock",
    "unblock bob ",
    "unblock 10.0.0.1",
    "alive ",
    "alive  1",
    "alive 1 ",
    "alive 1 2",
    "alive one",
    "alive -1",
    "alive 9007199254740992",
    "logout ",
    "logout x",
    "logout 1 2",
  ])("of `%s` are wrong in number or form", (line) => {
    expect(parse(line).verb).not.toBeNull();
    expect(parse(line).words).toBeNull();
  });

  test("a request has at most sixteen words, so a login has at most fourteen options", () => {
    const options = Array.from({ length: 15 }, (_, i) => `option${i}`);
    expect(parse(`login alice secret ${options.slice(0, 14).join(" ")}`).words).toHaveLength(16);
    expect(parse(`login alice secret ${options.join(" ")}`).words).toBeNull();
  });

  test("a word can be decoded as UTF-8", () => {
    const line = Buffer.from("login alice pässwörd");
    expect(request.parseVerb(line, 0, line.length)).toBe("login");
    expect(request.parseWords(SHAPES.login)).toBe(true);
    expect([request.word(0), request.word(1)]).toEqual(["alice", "pässwörd"]);
  });
});

describe("a user name", () => {
  const good = ["a", "Z", "7", "alice", "a.b", "a_b-c.d", "x".repeat(32), "1.2.3", "1.2.3.4.5", "1.2.3.256", "a."];
  const bad = [
    "",
    ".a",
    "_a",
    "-a",
    "a..b",
    "a b",
    "a/b",
    "a\x00",
    "\xe4",
    "x".repeat(33),
    "1.2.3.4",
    "255.255.255.255",
  ];

  test.each(good)("`%s` is a user name", (name) => {
    expect(within(name, isName)).toBe(true);
  });

  test.each(bad)("`%j` is not a user name", (name) => {
    expect(within(name, isName)).toBe(false);
  });

  test("a user name has letters, digits, dot, underscore and hyphen only", () => {
    for (let byte = 0; byte < 256; byte++) {
      const name = `a${String.fromCharCode(byte)}a`;
      expect(within(name, isName)).toBe(/^[\w.-]+$/.test(name));
    }
  });

  test("the rules for user names hold for any bytes", () => {
    const seed = seedFor("names");
    const near = fc.string({ unit: fc.constantFrom(..."aZ019._-", "\xe4", " "), maxLength: 35 });
    const address = fc.array(fc.constantFrom("0", "1", "25", "255", "256", "1000", ""), { minLength: 3, maxLength: 5 });
    fc.assert(
      fc.property(
        fc.oneof(
          near,
          address.map((parts) => parts.join(".")),
          fc.ipV4(),
        ),
        (name) => {
          const wellFormed = /^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$/.test(name) && !name.includes("..");
          // The rules leave open whether leading zeros are an address.
          fc.pre(!/(^|\.)0\d/.test(name) || !/^\d+(\.\d+){3}$/.test(name));
          expect(within(name, isName)).toBe(wellFormed && !isIPv4(name));
        },
      ),
      { seed, numRuns: 3000 },
    );
  });
});

describe("a number", () => {
  function numberIn(text: string): number {
    return parseNumber(Buffer.from(`9${text}9`, "latin1"), 1, 1 + text.length);
  }

  test("a number is decimal digits below 2^53", () => {
    expect(numberIn("0")).toBe(0);
    expect(numberIn("007")).toBe(7);
    expect(numberIn("9007199254740991")).toBe(Number.MAX_SAFE_INTEGER);
    for (const big of ["9007199254740992", "9007199254740993", "90071992547409910", "9".repeat(400)]) {
      expect(numberIn(big)).toBe(-1);
    }
  });

  test("other texts are not numbers", () => {
    for (const text of ["", " ", "-1", "+1", "1.0", "1e3", "0x1", " 1", "1 ", "1a", "/", ":", "\xb2"]) {
      expect(numberIn(text)).toBe(-1);
    }
  });

  test("random numbers are parsed exactly, and other texts are refused", () => {
    const seed = seedFor("numbers");
    fc.assert(
      fc.property(fc.maxSafeNat(), (value) => expect(numberIn(String(value))).toBe(value)),
      { seed },
    );
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(..."0123456789 -.e"), maxLength: 20 }), (text) => {
        const value = /^\d+$/.test(text) && BigInt(text) < 2n ** 53n ? Number(text) : -1;
        expect(numberIn(text)).toBe(value);
      }),
      { seed },
    );
  });
});

test("a token has 22 to 64 letters, digits, underscores and hyphens", () => {
  for (let length = 0; length < 80; length++) {
    expect(within("aZ09_-".repeat(14).slice(0, length), isToken)).toBe(length >= 22 && length <= 64);
  }
  for (let byte = 0; byte < 256; byte++) {
    const character = String.fromCharCode(byte);
    expect(within("x".repeat(21) + character, isToken)).toBe(/[\w-]/.test(character));
  }
});

describe("whatever a line holds", () => {
  /** Lines that are almost requests: verbs, words, and frequent mistakes. */
  const pieces = fc.constantFrom(...VERBS, "alice", "a..b", "1.2.3.4", "12", "9".repeat(20), "", " ", "\r", "\xff");
  const nearly = fc.array(pieces, { maxLength: 22 }).map((words) => Buffer.from(words.join(" "), "latin1"));
  const anything = fc.uint8Array({ maxLength: 200 });

  test("parsing random lines never throws, and an accepted request covers the whole line", () => {
    const seed = seedFor("requests of any bytes");
    let accepted = 0;
    fc.assert(
      fc.property(fc.oneof(nearly, anything), (bytes) => {
        const { verb, words, text } = parseBytes(bytes);
        if (verb === null || words === null) return;
        accepted++;
        const line = [verb, ...words, ...(text === null ? [] : [text])].join(" ");
        expect(line).toBe(Buffer.from(bytes).toString("latin1"));
        for (const word of words) expect(word).toMatch(/^[^ ]+$/s);
        if (text !== null) expect(text.length).toBeGreaterThan(0);
      }),
      { seed, numRuns: 5000 },
    );
    expect(accepted).toBeGreaterThan(0);
  });
});

test("lines of HTTP and TLS are recognised by their beginning, without bytes outside the line", () => {
  const theirs = ["GET / HTTP/1.1", "login /x HTTP/1.", "a b HTTP/1.0 and more", "PRI * HTTP/2.0", "\x16\x03\x01"];
  for (const line of [...theirs, "Host:", "hOST: a", "ORIGIN:", "origin: null"]) {
    expect([line, within(line, isOtherProtocol)]).toEqual([line, true]);
  }
  const ours = ["", " ", "HTTP/1.1", "GET HTTP/1.1", "GET / HTTP/2.0", "GET / HTTP/1", "GET  HTTP/1.1", " / HTTP/1.1"];
  const alike = [
    "Host",
    "Hos:",
    "Host :",
    " Host:",
    "xHost:",
    "host\x1a",
    "Origin",
    "\x16",
    "\x16\x02",
    "PRI * HTTP/2.01",
  ];
  for (const line of [...ours, ...alike, "login alice x", "as x message bob GET / HTTP/1.1"]) {
    expect([line, within(line, isOtherProtocol)]).toEqual([line, false]);
  }
});
