import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import fc from "fast-check";
import type { ChatClient } from "heartline/client";
import { Attention } from "../../src/terminal/attention.ts";
import type { Edit } from "../../src/terminal/completion.ts";
import { Conversation } from "../../src/terminal/conversation.ts";
import { Display } from "../../src/terminal/display.ts";
import { Outgoing } from "../../src/terminal/outgoing.ts";
import { People } from "../../src/terminal/people.ts";
import { PresenceLines } from "../../src/terminal/presence.ts";
import { Questions } from "../../src/terminal/questions.ts";
import { Transcript } from "../../src/terminal/transcript.ts";

const OWN_PASSWORD = "116bway";

beforeEach(() => void jest.useFakeTimers());
afterEach(() => void jest.useRealTimers());

/** A conversation without a terminal and a server. A request that `refuses` is left without a reply. */
function open(hasReplies = true) {
  /** What reached the server, or another client. */
  const sent: string[] = [];
  const lines: string[] = [];
  const remembered: string[] = [];
  let [prompt, edit, exits] = ["", { line: "", cursor: 0 } as Edit, 0];
  const reply = (request: string, value: unknown): Promise<unknown> => {
    sent.push(request);
    return hasReplies ? Promise.resolve(value) : new Promise(() => {});
  };
  const client = {
    message: (user: string, text: string) => reply(`message ${user} ${text}`, "sent"),
    private: (user: string, text: string) => reply(`private ${user} ${text}`, undefined),
    broadcast: (text: string) => reply(`broadcast ${text}`, 1),
    online: () => reply("online", { names: ["SEAS", "bob"], more: 0 }),
    block: (user: string) => reply(`block ${user}`, undefined),
    answer: (user: string, yes: boolean) => reply(`answer ${user} ${yes}`, undefined),
    logout: () => reply("logout", undefined),
  };
  const display = new Display(false, true);
  const printAll = async (all: readonly string[]): Promise<void> =>
    void lines.push(...all.map((line) => line.slice(6)));
  const transcript = new Transcript({ printAll }, display);
  const people = new People();
  people.setOnline(["SEAS", "bob"]);
  const questions = new Questions(
    (text) => transcript.question(text),
    () => display.slash,
  );
  const outgoing = new Outgoing(transcript, display);
  const editor = {
    get edit() {
      return edit;
    },
    set edit(next: Edit) {
      edit = next;
    },
    columns: 80,
    setPrompt: (text: string) => void (prompt = text),
    writeControl: () => {},
  };
  const conversation = new Conversation({
    client: client as never as ChatClient,
    editor,
    transcript,
    display,
    people,
    presence: new PresenceLines("on", () => {}),
    attention: new Attention({ isBellOn: true, hasTitle: true }, 0),
    questions,
    outgoing,
    log: null,
    user: "columbia",
    password: OWN_PASSWORD,
    remember: (line) => void remembered.push(line),
    leave: () => void exits++,
  });
  /** Types at the cursor, key by key. */
  const type = (text: string): void => {
    for (const key of text) {
      edit = { line: edit.line.slice(0, edit.cursor) + key + edit.line.slice(edit.cursor), cursor: edit.cursor + 1 };
      conversation.key();
    }
  };
  const enter = (): void => {
    if (conversation.line(edit.line) !== "hold") edit = { line: "", cursor: 0 };
  };
  const paste = (text: string, isMarked = true): void => type(conversation.paste(text, isMarked));
  conversation.showPrompt();
  return {
    conversation,
    people,
    questions,
    sent,
    lines,
    remembered,
    type,
    enter,
    paste,
    /** Types a line and Enter. */
    say: (line: string) => {
      type(line);
      enter();
    },
    prompt: () => prompt,
    edit: () => edit.line,
    exits: () => exits,
  };
}

test("the partner is in the prompt, and /to without a name ends that", () => {
  const { say, prompt, sent } = open();
  expect(prompt()).toBe("> ");
  say("/to seas");
  expect(prompt()).toBe("SEAS> ");
  say("hello");
  say("/to");
  expect(prompt()).toBe("> ");
  say("hello");
  expect(sent).toEqual(["message SEAS hello"]);
});

describe("a doubtful line", () => {
  test("is said when it is entered again", () => {
    const { say, enter, sent, edit } = open();
    say("/to SEAS");
    say("logout now");
    expect([sent, edit()]).toEqual([[], "logout now"]);
    enter();
    expect([sent, edit()]).toEqual([["message SEAS logout now"], ""]);
  });

  test("that was changed is doubtful again", () => {
    const { say, type, enter, sent } = open();
    say("/to SEAS");
    say("private thoughts");
    type(" of mine");
    enter();
    expect(sent).toEqual([]);
  });

  test("is cleared by Esc and by Ctrl+C, and the next time is asked about again", () => {
    for (const key of ["escape", "interrupt"] as const) {
      const { conversation, say, enter, sent, edit } = open();
      say("/to SEAS");
      say("broadcast x");
      conversation[key]();
      expect(edit()).toBe("");
      enter();
      say("broadcast x");
      expect(sent).toEqual([]);
    }
  });

  test("is not said to another partner than the one who was asked about", () => {
    const { conversation, people, say, type, enter, sent } = open();
    people.wrote("bob", false);
    say("/to SEAS");
    say("online soon");
    conversation.interrupt();
    conversation.tab();
    expect(people.partner).not.toBe("SEAS");
    type("online soon");
    enter();
    expect(sent).toEqual([]);
  });

  test("is one with the own password in it, which no run remembers", () => {
    const { conversation, say, sent, remembered } = open();
    say("/to SEAS");
    say(`login columbia ${OWN_PASSWORD}`);
    conversation.escape();
    say(`x ${OWN_PASSWORD}`);
    conversation.escape();
    say(`/block ${OWN_PASSWORD}`);
    expect(sent).toEqual([`block ${OWN_PASSWORD}`]);
    expect(remembered).toEqual(["/to SEAS"]);
  });

  test("is the answer to an open question without its slash", () => {
    const { conversation, say, sent, questions } = open();
    say("/to SEAS");
    questions.asked("bob");
    say("yes bob");
    conversation.escape();
    expect(sent).toEqual([]);
    say("/yes");
    expect(sent).toEqual(["answer bob true"]);
  });
});

describe("/r", () => {
  test("answers the last sender, and shows the name before the answer is typed", () => {
    const { people, type, enter, sent, edit } = open();
    people.wrote("bob", false);
    type("/r ");
    expect(edit()).toBe("/msg bob ");
    people.wrote("SEAS", false);
    type("for bob");
    enter();
    expect(sent).toEqual(["message bob for bob"]);
  });

  test("answers a private text privately", () => {
    const { people, say, conversation, sent } = open();
    people.wrote("bob", true);
    say("/r psst");
    conversation.line("/r psst");
    expect(sent).toEqual(["private bob psst", "private bob psst"]);
  });

  test("without a text to answer says so", () => {
    const { say, sent, lines } = open();
    say("/r hi");
    expect(sent).toEqual([]);
    expect(lines).toEqual(["nobody has written to you yet"]);
  });
});

describe("pasted lines", () => {
  test("are sent in order at Enter, with their spaces at the beginning", () => {
    const { say, paste, enter, sent, prompt } = open();
    say("/to SEAS");
    paste("if (x)\n\treturn;\n\n  /quit\n");
    expect(prompt()).toBe("3 lines to SEAS? Enter sends, Esc discards ");
    enter();
    expect(sent).toEqual(["message SEAS if (x)", "message SEAS \treturn;", "message SEAS   /quit"]);
    expect(prompt()).toBe("SEAS> ");
  });

  test("into a typed line are asked about together with it, and Esc gives it back", () => {
    const { say, type, paste, conversation, enter, sent, edit } = open();
    say("/to SEAS");
    type("see: ");
    paste("a\nb");
    expect(edit()).toBe("");
    conversation.escape();
    expect(edit()).toBe("see: ");
    paste("a\nb");
    enter();
    expect(sent).toEqual(["message SEAS see: a", "message SEAS b"]);
  });

  test("are discarded by any other key than Enter", () => {
    const { say, type, paste, enter, sent, prompt } = open();
    say("/to SEAS");
    paste("a\nb");
    type("n");
    expect(prompt()).toBe("SEAS> ");
    expect(sent).toEqual([]);
    enter();
    expect(sent).toEqual(["message SEAS n"]);
  });

  test("are dropped without a partner", () => {
    const { say, paste, enter, sent, lines } = open();
    paste("hello\nlogout\nbye");
    enter();
    expect(sent).toEqual([]);
    expect(lines[0]).toStartWith("3 pasted lines were dropped");
    say("online");
    expect(sent).toEqual(["online"]);
  });

  test("of which only one has text are typed, not sent", () => {
    const { say, paste, sent, edit } = open();
    say("/to SEAS");
    paste("\nonly\n\n");
    expect([edit(), sent]).toEqual(["only", []]);
  });

  test("into an empty line is no command until Enter confirms it", () => {
    const { conversation, say, paste, type, enter, sent } = open();
    for (const partner of ["", "SEAS"]) {
      say(`/to ${partner}`);
      paste("/block bob");
      enter();
      conversation.escape();
      type("/block bob");
      conversation.interrupt();
    }
    expect(sent).toEqual([]);
    paste("/block");
    type(" bob");
    enter();
    enter();
    expect(sent).toEqual(["block bob"]);
    type("/block ");
    paste("SEAS");
    enter();
    expect(sent).toEqual(["block bob", "block SEAS"]);
  });

  test("that continue a paste that is asked about are added to it", () => {
    const { say, paste, enter, sent, prompt } = open();
    say("/to SEAS");
    paste("a\nb\n");
    paste("c\n");
    expect(prompt()).toStartWith("3 lines");
    enter();
    expect(sent).toHaveLength(3);
  });
});

describe("lines that arrived at once without the marks of a paste", () => {
  test("are carried out when each is a command, which nobody pastes by accident", () => {
    const { paste, sent, edit } = open();
    paste("online\rblock bob\rmess", false);
    expect([sent, edit()]).toEqual([["online", "block bob"], "mess"]);
  });

  test.each(["hello\rlogout\rbye\r", "online\rlogout\r", "online\rhello\r", "logout\rx"])(
    "are dropped without a partner when one is not, or ends the session: %j",
    (text) => {
      const { paste, enter, sent, edit } = open();
      paste(text, false);
      enter();
      expect([sent, edit()]).toEqual([[], ""]);
    },
  );

  test("are asked about with a partner, also when they began in the typed line", () => {
    const { say, type, paste, enter, sent, prompt } = open();
    say("/to SEAS");
    type("secret");
    paste("\rlogout\r", false);
    expect(prompt()).toBe("2 lines to SEAS? Enter sends, Esc discards ");
    expect(sent).toEqual([]);
    enter();
    expect(sent).toEqual(["message SEAS secret", "message SEAS logout"]);
  });
});

test("whatever is typed and pasted, nothing goes to anybody but the partner in the prompt or a user who was named", () => {
  const words = fc.constantFrom(
    "message bob x",
    "broadcast x",
    "logout",
    "hi",
    "/quit",
    "/all x",
    "//x",
    "yes bob",
    "/r x",
  );
  const action = fc.oneof(
    words.map((word) => ["say", word] as const),
    fc.array(words, { maxLength: 4 }).map((lines) => ["paste", lines.join("\n")] as const),
    fc.constantFrom(["enter", ""], ["escape", ""], ["interrupt", ""], ["tab", ""], ["wrote", "bob"]) as fc.Arbitrary<
      readonly ["enter" | "escape" | "interrupt" | "tab" | "wrote", string]
    >,
  );
  fc.assert(
    fc.property(fc.array(action, { maxLength: 20 }), (actions) => {
      const { conversation, people, say, paste, enter, sent, prompt, edit } = open();
      people.partner = "SEAS";
      conversation.showPrompt();
      let held = "";
      for (const [what, text] of actions) {
        const [before, line] = [sent.length, edit()];
        const [, partner = ""] = /(?:to )?(\w+)[>?]/.exec(prompt()) ?? [];
        if (what === "say") say(text);
        else if (what === "paste") paste(text);
        else if (what === "enter") enter();
        else if (what === "wrote") people.wrote(text, false);
        else conversation[what]();
        for (const request of sent.slice(before)) {
          // Enter again confirms a line that was asked about.
          if (what === "enter" && line === held) continue;
          const isTyped = what === "say" && line === "";
          if (isTyped && ["/quit", "/all x"].includes(text)) continue;
          if (isTyped && text === "/r x") expect(request).toBe("message bob x");
          else expect(request).toStartWith(`message ${partner} `);
        }
        if (what === "paste") expect(sent.length).toBe(before);
        held = edit();
      }
    }),
    { numRuns: 300 },
  );
});

test("Ctrl+C on an empty line leaves; with a text that has no reply it says what happens, and leaves the second time", () => {
  const quick = open();
  quick.conversation.interrupt();
  expect(quick.exits()).toBe(1);
  const { conversation, say, type, lines, exits } = open(false);
  say("/to SEAS");
  say("hello");
  type("x");
  conversation.interrupt();
  expect([exits(), lines.filter((line) => line.includes("no reply"))]).toEqual([0, []]);
  conversation.interrupt();
  expect(exits()).toBe(0);
  expect(lines.at(-1)).toBe(
    "1 line has no reply yet: it is saved, and sent at the next login unless the server has it; Ctrl+C again leaves",
  );
  conversation.end();
  expect(exits()).toBe(1);
});

test("a text of a private chat is not remembered", () => {
  const { say, remembered, sent } = open();
  say("private bob psst");
  say("message bob hi");
  expect(sent).toHaveLength(2);
  expect(remembered).toEqual(["message bob hi"]);
});

/** Resolves when the local commands are loaded and carried out. */
async function local(): Promise<void> {
  await import("../../src/terminal/local-commands.ts");
  await new Promise((resolve) => setImmediate(resolve));
}

test("/find finds what this run has seen, and says when it finds nothing", async () => {
  const { say, lines } = open();
  say("message bob lunch at Noon");
  await local();
  say("/find NOON lunch");
  await local();
  expect(lines.at(-1)).toMatch(/columbia to bob: lunch at Noon$/);
  say("/find dinner");
  await local();
  expect(lines.at(-1)).toContain("these words: dinner");
});

test("a local command that is wrong says how it is used", async () => {
  const { say, lines } = open();
  for (const line of ["/to b..b", "/presence maybe", "/bell loud", "/find", "/help cooking"]) {
    say(line);
    await local();
  }
  expect(lines).toEqual([
    "b..b cannot be a user name; usage: /to <user>",
    "usage: /presence [off|brief|on]",
    "usage: /bell [off|on]",
    "usage: /find <words>",
    "there is no page cooking; usage: /help [<page>]",
  ]);
});
