import fc from "fast-check";
import { ChatError, type UserEvent } from "../../src/client/client.ts";
import { Attention } from "../../src/terminal/attention.ts";
import { Display, type Printable } from "../../src/terminal/display.ts";
import { decode, parseEvent } from "../../src/client/event.ts";
import { explainError } from "../../src/terminal/explanations.ts";
import { Incoming } from "../../src/terminal/incoming.ts";
import { People } from "../../src/terminal/people.ts";
import { PresenceLines } from "../../src/terminal/presence.ts";
import { Questions } from "../../src/terminal/questions.ts";
import { PlainReporter } from "../../src/terminal/reporter.ts";
import { rendered, rowsOf } from "../../src/terminal/rows.ts";
import { Transcript } from "../../src/terminal/transcript.ts";
import { expectThat, latin1, target } from "./target.ts";

/** Characters that move the cursor, break a line, or change the direction of text. */
const CONTROL = /[\p{Cc}\p{Zl}\p{Zp}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/u;
/** The colours that the client itself uses. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what it is about
const COLORS = /\u001b\[\d+m/g;

const EVENTS = [
  "message",
  "broadcast",
  "stored",
  "joined",
  "left",
  "goodbye",
  "goodbye kicked",
  "notice",
  "private_request",
  "address",
  "expect",
  "denied",
];
const TIMES = [
  "0",
  "1700000000000",
  "8640000000000000",
  "-8640000000000000",
  "8640000000000001",
  "1e400",
  "x",
  "0x10",
  "",
];

const word = fc.oneof(
  fc.constantFrom("bob", "replaced", "constructor", "__proto__", "toString", "hasOwnProperty", "valueOf", "", "busy"),
  fc.constantFrom("\x1b[2J", "\xc2\x9b2J", "\xe2\x80\xae", "\xe2\x80\xa8", "\xff", "\t", "\0", "\x7f", "a\rb", "::1"),
  fc.constantFrom(...TIMES),
  fc.uint8Array({ maxLength: 6 }).map((bytes) => Buffer.from(bytes).toString("latin1").replaceAll("\n", " ")),
);

const line = fc
  .tuple(fc.oneof({ weight: 6, arbitrary: fc.constantFrom(...EVENTS) }, word), fc.array(word, { maxLength: 6 }))
  .map(([verb, words]) => [verb, ...words].join(" "));

/** The client events that an event of the server may cause. Those of private chats differ from the server's. */
function clientEvents(event: NonNullable<ReturnType<typeof parseEvent>>): UserEvent[] {
  const { kind } = event;
  if (kind === "private_request") {
    return [true, false].map((encrypted) => ({ kind: "asked", user: event.user, encrypted }));
  }
  if (kind === "address") {
    const { user, host, port } = event;
    return [true, false].map((encrypted) => ({ kind: "agreed", user, host, port, encrypted }));
  }
  if (kind === "expect")
    return (["invited", "parted", "unreachable", "impostor"] as const).map((kind) => ({ ...event, kind }));
  if (kind === "message") return [event, { ...event, kind: "private" }];
  return [event];
}

export const display = target(
  { name: "display", holds: "the terminal client shows any event of a server without control characters" },
  fc.record({
    lines: fc.array(line, { minLength: 1, maxLength: 4 }),
    refusal: fc.array(word, { minLength: 1, maxLength: 3 }),
    zone: fc.constantFrom("UTC", "Pacific/Kiritimati", "America/Los_Angeles"),
    colored: fc.boolean(),
  }),
  ({ lines, refusal, zone, colored }) => {
    process.env.TZ = zone;
    const shown: string[] = [];
    const output = {
      print: async (text: string) => void shown.push(text),
      fail: (text: string) => void shown.push(text),
    };
    const words = new Display(colored, true);
    const people = new People();
    const reporter = new PlainReporter(output, words);
    const printAll = async (lines: readonly string[]): Promise<void> => void shown.push(...lines);
    const transcript = new Transcript({ printAll }, words, () => 0);
    const incoming = new Incoming({
      transcript,
      display: words,
      people,
      presence: new PresenceLines("on", (text) => incoming.note(words.note(text))),
      attention: new Attention({ isBellOn: true, hasTitle: true }, 0),
      questions: new Questions(
        () => {},
        () => "",
      ),
      log: null,
    });
    for (const line of lines) {
      const bytes = latin1(line);
      const event = parseEvent(bytes, 0, bytes.length);
      for (const one of event === null ? [] : clientEvents(event)) {
        void reporter.event(one);
        if (one.kind !== "asked") void incoming.event(one);
      }
    }
    incoming.start();
    const [code = "", ...detail] = latin1(refusal.join(" ")).toString().split(" ");
    const error = new ChatError(code, detail.join(" "));
    reporter.recovered(decode(latin1(lines[0]!), 0, lines[0]!.length), error);
    shown.push(words.failure(explainError(error, "bob")));
    shown.push(words.own("sent", "bob", decode(latin1(lines[0]!), 0, lines[0]!.length), true));
    shown.push(...people.complete(""));
    for (const text of shown) {
      expectThat(typeof text === "string", () => `it prints ${typeof text}`);
      const plain = colored ? text.replace(COLORS, "") : text;
      expectThat(!CONTROL.test(plain), () => `it prints ${JSON.stringify(text)}`);
      const isIndented = rowsOf(text as Printable, 12).every((row, index) => index === 0 || row.startsWith("  "));
      expectThat(isIndented, () => `a row of ${JSON.stringify(text)} is not indented`);
      const written = Buffer.from(rendered(text as Printable, {}));
      const shownAgain = decode(written, 0, written.length - 1).replace(COLORS, "");
      expectThat(!CONTROL.test(shownAgain), () => `it writes ${JSON.stringify(text)} with a control character`);
    }
  },
);
