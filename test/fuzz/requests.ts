import fc from "fast-check";
import { REQUEST_WORDS_MAX } from "../../src/limits.ts";
import { Request, SHAPES } from "../../src/protocol/request.ts";
import { line } from "./grammar.ts";
import { expectAlike, latin1, target } from "./target.ts";

/** The result of parsing a line. `words` is null when they do not have the verb's shape. */
interface ParsedRequest {
  verb: string | null;
  words: string[] | null;
  text: string | null;
}

const WORD = /^[^ ]+$/s;
const NUMBER = { test: (word: string) => /^\d+$/.test(word) && BigInt(word) < 2n ** 53n };
const TOKEN = /^[A-Za-z0-9_-]{22,64}$/;
const KEY = { test: (word: string) => word.length <= 1400 && /^[A-Za-z0-9+/]+={0,2}$/.test(word) };
const ANSWER = /^(yes|no)$/;
const NAME = {
  test: (word: string) =>
    /^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$/.test(word) && !word.includes("..") && !isAddress(word.split(".")),
};

function isAddress(parts: string[]): boolean {
  return parts.length === 4 && parts.every((part) => /^\d{1,3}$/.test(part) && Number(part) <= 255);
}

/** docs/protocol.md, Requests: the pattern of the line, and of each of its words. */
const REQUESTS: Record<string, [line: RegExp, ...words: { test(word: string): boolean }[]]> = {
  login: [/^login ([^ ]+) ([^ ]+)((?: [^ ]+)*)$/s, NAME, WORD],
  resume: [/^resume ([^ ]+) ([^ ]+)$/s, TOKEN, NUMBER],
  as: [/^as ([^ ]+) (.+)$/s, TOKEN],
  message: [/^message ([^ ]+) (.+)$/s, NAME],
  broadcast: [/^broadcast (.+)$/s],
  online: [/^online$/],
  block: [/^block ([^ ]+)$/s, NAME],
  unblock: [/^unblock ([^ ]+)$/s, NAME],
  getaddress: [/^getaddress ([^ ]+)(?: ([^ ]+))?$/s, NAME, KEY],
  private_answer: [/^private_answer ([^ ]+) ([^ ]+)(?: ([^ ]+))?$/s, NAME, ANSWER, KEY],
  alive: [/^alive(?: ([^ ]+))?$/s, NUMBER],
  logout: [/^logout(?: ([^ ]+))?$/s, NUMBER],
};
const HAVE_TEXT = ["as", "message", "broadcast"];

/** The expected result, by regular expressions. */
function parseByPatterns(line: string): ParsedRequest {
  const verb = line.split(" ")[0]!;
  if (!Object.hasOwn(REQUESTS, verb)) return { verb: null, words: null, text: null };
  const [whole, ...forms] = REQUESTS[verb]!;
  const parts = whole.exec(line)?.slice(1);
  const bad = { verb, words: null, text: null };
  if (parts === undefined) return bad;
  const text = HAVE_TEXT.includes(verb) ? parts.pop()! : null;
  if (verb === "login") parts.push(...parts.pop()!.split(" ").slice(1));
  const words = parts.filter((part) => part !== undefined);
  if (words.length > REQUEST_WORDS_MAX) return bad;
  return words.every((word, i) => (forms[i] ?? WORD).test(word)) ? { verb, words, text } : bad;
}

/** One parser for all lines, as in the server: the state of an earlier line must not matter. */
const request = new Request();

/** Parses a line between two others, which a parser that reads too far would notice. */
function parse(line: string): ParsedRequest {
  const before = "message bob 1\n";
  const bytes = latin1(`${before}${line} 2 message bob more words\n`);
  const verb = request.parseVerb(bytes, before.length, before.length + line.length);
  if (verb === null || !request.parseWords(SHAPES[verb])) return { verb, words: null, text: null };
  const word = (_: unknown, i: number): string => bytes.toString("latin1", request.starts[i], request.ends[i]);
  const text = SHAPES[verb].most === "text" ? bytes.toString("latin1", request.textStart, request.end) : null;
  return { verb, words: Array.from({ length: request.words }, word), text };
}

export const requests = target(
  { name: "requests", holds: "a line parses as the patterns of docs/protocol.md say, or is refused" },
  fc.array(line, { minLength: 1, maxLength: 4 }),
  (lines) => {
    for (const line of lines) expectAlike(parse(line), parseByPatterns(line), "a request");
  },
);
