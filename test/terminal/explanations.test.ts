import { expect, test } from "bun:test";
import { ChatError } from "heartline/client";
import { explainEnd, explainError, explainGoodbye, explainLogin } from "../../src/terminal/explanations.ts";
import { parseOptions } from "../../src/terminal/options.ts";

const OPTIONS = parseOptions(["127.0.0.1", "6001"])!;

test.each(["constructor", "__proto__", "toString", "hasOwnProperty"])(
  "a code that is also a property of every object is explained like any unknown code: %s",
  (code) => {
    expect(explainError(new ChatError(code, "because"), "bob")).toBe("because");
    expect(explainError(new ChatError(code), "bob")).toBe(code.replaceAll("_", " "));
    expect(explainEnd(code)).toBe(`the session has ended: ${code.replaceAll("_", " ")}`);
    expect(explainGoodbye(code)).toBe(`The server ended the session (${code}).`);
  },
);

test.each([
  ["replaced", "You logged in somewhere else, so this session has ended."],
  ["kicked", "The operator disconnected this user, so this session has ended."],
  ["shutdown", "The server is shutting down."],
  ["expired", "The server received nothing from this client for too long."],
])("goodbye %s is one sentence", (reason, sentence) => expect(explainGoodbye(reason)).toBe(sentence));

test("the words of the operator follow the sentence about a kick", () => {
  expect(explainGoodbye("kicked", "come back tomorrow")).toBe(
    "The operator disconnected this user, so this session has ended: come back tomorrow",
  );
});

test("a banned login is explained with the time that is left", () => {
  expect(explainLogin(new ChatError("banned", "60"), "bob", OPTIONS)).toBe("bob is banned for 60 seconds");
  expect(explainLogin(new ChatError("banned"), "bob", OPTIONS)).toBe("bob is banned");
  expect(explainEnd("banned")).toBe("the session has ended: this user is banned");
});

test("a session that ends because all servers are busy is explained in the words of the server", () => {
  expect(explainEnd("busy", "this server is a spare; try another one")).toBe(
    "the session has ended: the server is busy: this server is a spare; try another one",
  );
  expect(explainEnd("busy")).toBe("the session has ended: the server is busy; try again in a moment");
});

test("a login that fails for a reason of the server, the network or the port is explained, any other error is thrown", () => {
  const explain = (error: unknown): string => explainLogin(error, "bob", OPTIONS);
  expect(explain(new ChatError("wrong_password", "1"))).toBe("wrong password; 1 try left");
  expect(explain(Object.assign(new Error(), { code: "ECONNREFUSED", syscall: "connect" }))).toStartWith(
    "cannot reach the server: no server listens there;",
  );
  expect(explain(Object.assign(new Error(), { code: "EACCES", syscall: "listen" }))).toStartWith(
    "cannot listen for private chats: EACCES;",
  );
  expect(() => explain(new TypeError("a bug"))).toThrow("a bug");
});
