import fc from "fast-check";

/** Random request lines: valid ones, ones with a mistake, and noise. Each character is a byte (latin1). */

/** Users that exist. */
export const NAMES = ["alice", "bob", "carol", "1.2.3"];

/** The first tokens, secrets and tickets that the tests' server creates. */
const TOKENS = Array.from({ length: 9 }, (_, i) => `token${String(i + 1).padStart(20, "0")}`);

const byte = fc.nat({ max: 255 }).map((code) => (code === 10 ? "\r" : String.fromCharCode(code)));

const name = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(...NAMES) },
  fc.constantFrom(
    "nobody",
    "ALICE",
    "constructor",
    "__proto__",
    "x".repeat(32),
    "x".repeat(33),
    "a..b",
    "-a",
    "a.",
    "",
  ),
  fc.constantFrom("1.2.3.4", "1.2.3.256", "01.2.3.4", "1.2.3.4.5", "1.2.3.", "alice\r", "bob\0", "\xe4"),
  fc.string({ unit: fc.constantFrom(..."aZ019._-", "\xe4"), maxLength: 34 }),
);

const token = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(...TOKENS) },
  fc.constantFrom("A".repeat(21), "A".repeat(22), "A".repeat(64), "A".repeat(65), `${"A".repeat(22)}=`, ""),
);

const number = fc.oneof(
  { weight: 4, arbitrary: fc.nat({ max: 300 }).map(String) },
  fc.constantFrom("0", "007", "9007199254740991", "9007199254740992", "9".repeat(400), "-1", "1e3", "1.5", "0x10", ""),
);

const key = fc.constantFrom("MIIB", "a+b/==", "a=", "=", "a===", "a\xff", "A".repeat(1400), "A".repeat(1401), "");

const text = fc.oneof(
  { weight: 3, arbitrary: fc.string({ unit: byte, maxLength: 20 }) },
  fc.constantFrom("hello", "ok", "err busy", " two  spaces ", "\0\x1b[2J\xff", "\r", "goodbye shutdown", ""),
  {
    weight: 1,
    arbitrary: fc.tuple(byte, fc.integer({ min: 4000, max: 4200 })).map(([one, count]) => one.repeat(count)),
  },
);

/** Longer than the default limit of a line, and within the highest limit. */
const longText = fc.tuple(byte, fc.integer({ min: 1000, max: 600_000 })).map(([one, count]) => one.repeat(count));

const option = fc.oneof(
  fc.constantFrom("resumable", "callback=2000", "listen=4242"),
  fc
    .tuple(fc.constantFrom("callback=", "listen="), fc.oneof(number, fc.constantFrom("1023", "65535", "65536")))
    .map(([what, port]) => what + port),
  fc.tuple(token, number).map(([which, position]) => `after=${which}:${position}`),
  fc.constantFrom("after=", `after=${"A".repeat(22)}`, "Resumable", "resumable=1", "\xff\xfe", "x:y"),
);

const password = fc.oneof({ weight: 6, arbitrary: fc.constant("secret") }, fc.constantFrom("guess", "\xff", ""));

function words(...list: fc.Arbitrary<string>[]): fc.Arbitrary<string> {
  return fc.tuple(...list).map((parts) => parts.join(" "));
}

function maybe(word: fc.Arbitrary<string>): fc.Arbitrary<string[]> {
  return fc.array(word, { maxLength: 1 });
}

function verb(word: string): fc.Arbitrary<string> {
  return fc.constant(word);
}

const login = fc
  .tuple(name, password, fc.array(option, { maxLength: 3 }))
  .map(([user, secret, options]) => ["login", user, secret, ...options].join(" "));

const request = fc.oneof(
  { weight: 3, arbitrary: login },
  words(verb("resume"), token, number),
  { weight: 3, arbitrary: words(verb("message"), name, text) },
  { weight: 2, arbitrary: words(verb("broadcast"), text) },
  verb("online"),
  words(fc.constantFrom("block", "unblock"), name),
  fc.tuple(name, maybe(key)).map(([user, more]) => ["getaddress", user, ...more].join(" ")),
  fc
    .tuple(name, fc.constantFrom("yes", "no", "maybe"), maybe(key))
    .map(([user, answer, more]) => ["private_answer", user, answer, ...more].join(" ")),
  fc.tuple(fc.constantFrom("alive", "logout"), maybe(number)).map(([which, more]) => [which, ...more].join(" ")),
);

const as = fc
  .tuple(fc.array(token, { minLength: 1, maxLength: 2 }), request)
  .map(([tokens, inner]) => [...tokens.flatMap((which) => ["as", which]), inner].join(" "));

/** Common mistakes in a line. */
const mistake: fc.Arbitrary<(line: string, at: number) => string> = fc.constantFrom(
  (line, at) => `${line.slice(0, at)} ${line.slice(at)}`,
  (line, at) => line.slice(0, at) + line.slice(at + 1),
  (line, at) => line.slice(0, at),
  (line) => `${line} `,
  (line) => ` ${line}`,
  (line) => `${line}\r`,
  (line) => `${line} more`,
  (line) => line.toUpperCase(),
  (line) => line.replaceAll(" ", "  "),
  (line) => line.replace(/ .*/s, ""),
);

const VERBS = [
  "login",
  "as",
  "resume",
  "message",
  "broadcast",
  "online",
  "block",
  "unblock",
  "alive",
  "logout",
  "getaddress",
];

/** A line without LF. */
export const line: fc.Arbitrary<string> = fc.oneof(
  { weight: 12, arbitrary: request },
  { weight: 3, arbitrary: as },
  {
    weight: 4,
    arbitrary: fc
      .tuple(fc.oneof(request, as), mistake, fc.nat({ max: 60 }))
      .map(([valid, apply, at]) => apply(valid, at)),
  },
  { weight: 1, arbitrary: fc.string({ unit: byte, maxLength: 30 }) },
  {
    weight: 1,
    arbitrary: fc
      .array(fc.oneof(fc.constantFrom(...VERBS), name, token, number, option, text), { maxLength: 20 })
      .map((list) => list.join(" ")),
  },
);

/** A line of up to 600,000 bytes. */
export const longLine: fc.Arbitrary<string> = fc
  .tuple(fc.constantFrom("login alice secret ", "message alice ", "broadcast ", "as ", "block ", ""), longText)
  .map(([head, rest]) => head + rest);
