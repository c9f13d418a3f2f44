import { expect, test } from "bun:test";
import { ChatClient, ChatError } from "heartline/client";
import { Display } from "../../src/terminal/display.ts";
import { Terminal, explain } from "../../src/terminal/terminal.ts";

function newTerminal(): Terminal {
  const surface = { print: async () => {}, fail: () => {} };
  return new Terminal(new ChatClient({ host: "127.0.0.1", port: 1 }), surface, new Display(false));
}

test.each(["constructor", "__proto__", "toString", "hasOwnProperty"])(
  "a refusal that every object knows: %s",
  (code) => {
    expect(explain(new ChatError(code, "because"), "bob")).toBe("because");
    expect(explain(new ChatError(code), "bob")).toBe(code.replaceAll("_", " "));
  },
);

test("names that were heard complete a line, others do not: they would be shown as they came", () => {
  const terminal = newTerminal();
  for (const user of ["bob", "\x1b[2J", "a b", ""]) terminal.hear({ kind: "joined", user });
  terminal.hear({ kind: "message", from: "alice", text: "hi" });
  expect(terminal.complete("message ")).toEqual([["alice ", "bob "], ""]);
});
