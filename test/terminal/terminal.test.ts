import { expect, test } from "bun:test";
import { ChatClient, ChatError } from "heartline/client";
import { Display } from "../../src/terminal/display.ts";
import { Terminal } from "../../src/terminal/terminal.ts";

function newTerminal() {
  const lines: string[] = [];
  const output = {
    print: async (line: string) => void lines.push(line),
    fail: (line: string) => void lines.push(line),
  };
  const client = new ChatClient({ host: "127.0.0.1", port: 1 });
  return { terminal: new Terminal(client, output, new Display(false)), lines };
}

test("valid user names in events complete a line; invalid ones do not, since they would be printed unfiltered", () => {
  const { terminal } = newTerminal();
  for (const user of ["bob", "\x1b[2J", "a b", ""]) terminal.showEvent({ kind: "joined", user });
  terminal.showEvent({ kind: "message", from: "alice", text: "hi" });
  expect(terminal.complete("message ")).toEqual([["alice ", "bob "], ""]);
});

test.each(["constructor", "__proto__", "toString"])(
  "a word that every object has is not a command: %s",
  async (word) => {
    const { terminal, lines } = newTerminal();
    expect(terminal.complete(`${word} `)).toEqual([[], ""]);
    await terminal.run(word);
    expect(lines).toEqual([`there is no command ${word}; help lists the commands`]);
  },
);

test("events before start are printed at start, in their order", () => {
  const { terminal, lines } = newTerminal();
  for (const user of ["alice", "bob"]) terminal.showEvent({ kind: "joined", user });
  expect(lines).toEqual([]);
  terminal.start();
  expect(lines).toEqual(["* alice is here", "* bob is here"]);
});

test("a request of an earlier run is printed with its outcome", () => {
  const { terminal, lines } = newTerminal();
  terminal.start();
  for (const error of [null, new ChatError("unknown_user"), new ChatError("unknown_outcome"), new ChatError("closed")])
    terminal.showRecovered("message SEAS hi", error);
  const [resent, unknown] = [
    "sent again: the server had not received it",
    "the reply was lost; it may or may not have been carried out",
  ];
  expect(lines).toEqual([
    `from the last run: message SEAS hi (${resent})`,
    `from the last run: message SEAS hi (${resent}; there is no user SEAS)`,
    `from the last run: message SEAS hi (${unknown})`,
    `from the last run: message SEAS hi (${unknown})`,
  ]);
});
