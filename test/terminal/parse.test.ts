import { describe, expect, test } from "bun:test";
import { type ParseContext, parse } from "../../src/terminal/parse.ts";

const context = (partner: string | null, more: Partial<ParseContext> = {}): ParseContext => ({
  partner,
  hasLocal: true,
  asker: null,
  resolve: (typed) => (typed.toLowerCase() === "seas" ? "SEAS" : typed),
  doubt: () => null,
  ...more,
});

describe("without a partner", () => {
  const read = (line: string) => parse(line, context(null));

  test.each<[string, object]>([
    ["message SEAS hi  you ", { kind: "command", verb: "message", user: "SEAS", text: "hi  you " }],
    ["message seas hi", { kind: "command", verb: "message", user: "SEAS", text: "hi" }],
    ["  broadcast\thi", { kind: "command", verb: "broadcast", user: "", text: "hi" }],
    ["online", { kind: "command", verb: "online", user: "", text: "" }],
    ["logout", { kind: "command", verb: "logout", user: "", text: "" }],
    ["block SEAS", { kind: "command", verb: "block", user: "SEAS", text: "" }],
    ["help private", { kind: "local", verb: "help", rest: "private" }],
    ["/to SEAS", { kind: "local", verb: "to", rest: "SEAS" }],
    ["   ", { kind: "nothing" }],
  ])("the words of the protocol are commands: %j", (line, expected) => {
    expect<object>(read(line)).toEqual(expected);
  });

  test.each([
    ["dance", "there is no command dance; help lists the commands"],
    ["onlin", "there is no command onlin; did you mean online?"],
    ["mesage SEAS hi", "there is no command mesage; did you mean message?"],
    ["message SEAS", "usage: message <user> <text>"],
    ["/message SEAS", "usage: /message <user> <text>"],
    ["message b..b hi", "b..b cannot be a user name"],
    ["online now", "usage: online"],
    ["to SEAS", "there is no command to; did you mean no?"],
    ["//hi", "there is no partner to say that to; /to <user> chooses one"],
    ["constructor", "there is no command constructor; help lists the commands"],
  ])("a wrong line says what to type: %j", (line, reason) => {
    expect(read(line)).toMatchObject({ kind: "wrong", reason });
  });
});

describe("with a partner", () => {
  const read = (line: string, more: Partial<ParseContext> = {}) => parse(line, context("SEAS", more));

  test("a plain line is said as it is", () => {
    for (const line of [
      "hello",
      "see you  at 5 ",
      "no way",
      "yes",
      "helpful",
      "to be or not",
      " indented",
      "a/b",
      "me",
    ])
      expect<object>(read(line)).toEqual({ kind: "say", text: line });
  });

  test.each(["message", "broadcast", "online", "getaddress", "private", "block", "unblock", "logout"])(
    "a line that begins with the word %s is doubtful, in any case and with spaces before it",
    (word) => {
      for (const line of [word, `${word} a secret`, `${word.toUpperCase()} x`, `  ${word}\tx`])
        expect(read(line)).toMatchObject({ kind: "doubt", text: line });
      expect(read(`${word}s a secret`).kind).toBe("say");
    },
  );

  test("a line with a slash is never said, whatever is wrong with it", () => {
    for (const line of ["/", "/ hi", "/dance", "/message", "/b SEAS", " /quit now", "/etc/passwd", "/online now"])
      expect(read(line).kind).toBe("wrong");
    expect(read(" /quit").kind).toBe("command");
  });

  test("two slashes say a text that begins with one", () => {
    expect<object>(read("//etc/passwd is a file")).toEqual({ kind: "say", text: "/etc/passwd is a file" });
  });

  test.each([
    ["/m bob hi", "message"],
    ["/msg bob hi", "message"],
    ["/MESS bob hi", "message"],
    ["/all hi", "broadcast"],
    ["/br hi", "broadcast"],
    ["/who", "online"],
    ["/q", "logout"],
    ["/exit", "logout"],
    ["/Block bob", "block"],
    ["/unb bob", "unblock"],
    ["/getaddr bob", "getaddress"],
  ])("an unambiguous beginning of a command means it: %s", (line, verb) => {
    expect(read(line)).toMatchObject({ kind: "command", verb });
  });

  test.each([
    ["/t bob", "to"],
    ["/r hi", "r"],
    ["/reply hi", "r"],
    ["/find x", "find"],
    ["/h", "help"],
    ["/pres off", "presence"],
  ])("a command of this client has a slash: %s", (line, verb) => {
    expect(read(line)).toMatchObject({ kind: "local", verb });
  });

  test("an ambiguous beginning names what it can be", () => {
    expect(read("/b bob")).toMatchObject({ reason: "/b can be /bell, /block or /broadcast" });
    expect(read("/p")).toMatchObject({ reason: "/p can be /presence or /private" });
  });

  test("a wrong word names the nearest command, and how it is said", () => {
    expect(read("/onlnie")).toMatchObject({
      reason: "there is no command /onlnie; did you mean /online?; / twice says it to SEAS",
    });
  });

  test("yes and no without a name answer the only question", () => {
    expect(read("/yes", { asker: "bob" })).toMatchObject({ verb: "yes", user: "bob" });
    expect(read("/yes").kind).toBe("wrong");
  });

  test("a text that the client doubts is not said at once", () => {
    const doubt = { why: "why", command: "" };
    expect<object>(read("secret", { doubt: () => doubt })).toEqual({ kind: "doubt", text: "secret", ...doubt });
  });
});
