import { expect, test } from "bun:test";
import { ChatClient, ChatError } from "heartline/client";
import { decode } from "../../src/client/event.ts";
import { Display } from "../../src/terminal/display.ts";
import { JsonReporter } from "../../src/terminal/json-reporter.ts";
import { PlainReporter } from "../../src/terminal/reporter.ts";
import { Script } from "../../src/terminal/script.ts";

const client = new ChatClient({ host: "127.0.0.1", port: 1 });

function newPlain() {
  const lines: string[] = [];
  const output = {
    print: async (line: string) => void lines.push(line),
    fail: (line: string) => void lines.push(line),
  };
  const reporter = new PlainReporter(output, new Display(false));
  return { reporter, script: new Script(client, reporter), lines };
}

function newJson() {
  const lines: string[] = [];
  const reporter = new JsonReporter(async (line) => void lines.push(line));
  return { reporter, script: new Script(client, reporter), lines };
}

test.each(["constructor", "__proto__", "toString"])(
  "a word that every object has is not a command: %s",
  async (word) => {
    const { script, lines } = newPlain();
    await script.run(word);
    expect(lines).toEqual([`there is no command ${word}; help lists the commands`]);
    expect(script.hasRefusals).toBe(true);
  },
);

test("a script has the commands of the server with and without a slash, and none of a person at a terminal", async () => {
  const { script, lines } = newPlain();
  for (const line of ["help", "/help", "/onlin bob", "/too bob", "//hi", "/bell"]) await script.run(line);
  expect(lines.filter((line) => line.startsWith("  message <user> <text>"))).toHaveLength(2);
  expect(lines.slice(-4)).toEqual([
    "usage: /online",
    "there is no command /too; /help lists the commands",
    "there is no partner to say that to; /to <user> chooses one",
    "there is no command /bell; /help lists the commands",
  ]);
});

test("events before start are reported at start, in their order", async () => {
  const { script, lines } = newPlain();
  const reported = ["alice", "bob"].map((user) => script.event({ kind: "joined", user }));
  expect(lines).toEqual([]);
  script.start();
  await Promise.all(reported);
  expect(lines).toEqual(["* alice is here", "* bob is here"]);
});

test("a request of an earlier run is printed with its outcome", () => {
  const { reporter, lines } = newPlain();
  for (const error of [null, new ChatError("unknown_user"), new ChatError("unknown_outcome"), new ChatError("closed")])
    reporter.recovered("message SEAS hi", error);
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

test("with --json each event is one object in one line of printable ASCII, with all that its text has", () => {
  const { script, lines } = newJson();
  script.start();
  const latin1 = Buffer.from("caf\xe9", "latin1");
  void script.event({ kind: "message", from: "bob", text: 'größe\x1b[2J "\u202e' });
  void script.event({ kind: "stored", from: "bob", unixMs: 1_700_000_000_000, text: decode(latin1, 0, 4) });
  void script.event({ kind: "left", user: "bob", reason: "expired" });
  void script.event({ kind: "stored", from: "bob", unixMs: Number.NaN, text: "hi" });
  for (const line of lines) expect(line).toMatch(/^[ -~]+\n$/);
  expect(lines.map((line) => JSON.parse(line))).toEqual([
    { event: "message", from: "bob", text: 'größe\x1b[2J "\u202e' },
    { event: "stored", from: "bob", unix_ms: 1_700_000_000_000, text_base64: latin1.toString("base64") },
    { event: "left", user: "bob", reason: "expired" },
    { event: "stored", from: "bob", unix_ms: null, text: "hi" },
  ]);
});

test("with --json each command has one reply with its number, also an invalid one and one that is refused", async () => {
  const { script, reporter, lines } = newJson();
  script.start();
  await script.run("");
  await script.run("dance");
  await script.run("message bob");
  await script.run("help");
  await script.run("message bob hi");
  script.skip("too long");
  void reporter.done(7, { note: "sent to bob", fields: { code: "sent" } });
  reporter.refused(8, new ChatError("mailbox_full"), "bob");
  const replies = lines.map((line) => JSON.parse(line));
  expect(replies.map(({ reply, code, request }) => [reply, code, request])).toEqual([
    ["err", "unknown_command", 1],
    ["err", "bad_request", 2],
    ["ok", undefined, 3],
    ["err", "closed", 4],
    ["err", "line_too_long", 5],
    ["ok", "sent", 7],
    ["err", "mailbox_full", 8],
  ]);
  expect(script.hasRefusals).toBe(true);
});
