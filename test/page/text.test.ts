import { expect, test } from "bun:test";
import { addressOf, conversationAt } from "../../src/page/address.ts";
import { EVERYBODY } from "../../src/page/conversations.ts";
import { excessBytes, isName, shownText, textParts, typedLines } from "../../src/page/text.ts";

const links = (text: string): (string | null)[] => textParts(text).flatMap(({ href }) => (href === null ? [] : [href]));

test("only http and https become links, without the punctuation of the sentence around them", () => {
  expect(textParts("see https://example.org/a?b=c#d, or (http://x.org).")).toEqual([
    { text: "see ", href: null },
    { text: "https://example.org/a?b=c#d", href: "https://example.org/a?b=c#d" },
    { text: ", or (", href: null },
    { text: "http://x.org", href: "http://x.org" },
    { text: ").", href: null },
  ]);
  for (const text of ["javascript:alert(1)", "data:text/html,<script>", "https://", "xhttps://a.org", "HTTPS:/a"])
    expect(links(text)).toEqual([]);
  expect(textParts("plain")).toEqual([{ text: "plain", href: null }]);
});

test("the parts of a text make up the whole text", () => {
  for (const text of ["", "a https://a.org b", "https://a.org!https://b.org", "https://[bad https://c.org"]) {
    const parts = textParts(text).map((part) => part.text);
    expect(parts.join("")).toBe(text);
  }
});

test("a shown text has no characters that reorder or hide words, and no lone surrogates", () => {
  expect(shownText("a\u202eb\u200bc\u0007d\udc80")).toBe("abcd\ufffd");
  expect(shownText("👩‍👩‍👧 می‌خواهم")).toBe("👩‍👩‍👧 می‌خواهم");
});

test("each line that is not empty is one message", () => {
  expect(typedLines("one\n\n  two  \r\nthree\u2028four\n ")).toEqual(["one", "  two", "three", "four"]);
  expect(typedLines(" \n\t")).toEqual([]);
});

test.each<[string, boolean]>([
  ["SEAS", true],
  ["a.b-c_1", true],
  ["a..b", false],
  ["_a", false],
  ["", false],
  ["127.0.0.1", false],
  ["two words", false],
  ["a".repeat(32), true],
  ["a".repeat(33), false],
])("whether %p can be the name of a user is %p", (name, can) => {
  expect(isName(name)).toBe(can);
});

test("each conversation has an address, and another address opens none", () => {
  for (const name of [EVERYBODY, "SEAS", "everybody", "a.b-c_1"]) expect(conversationAt(addressOf(name))).toBe(name);
  for (const hash of ["", "#", "#to-", "#to-two words", "#to-%3Cscript%3E", "#else"])
    expect(conversationAt(hash)).toBeNull();
});

test("a request may have 4096 bytes with its LF, in UTF-8", () => {
  expect(excessBytes("x".repeat(4095))).toBe(0);
  expect(excessBytes(`${"x".repeat(4094)}ä`)).toBe(1);
});
