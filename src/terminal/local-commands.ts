import type { Attention } from "./attention.ts";
import { type ChatLog, findTexts } from "./chat-log.ts";
import type { Display } from "./display.ts";
import { helpPage, isPage } from "./help.ts";
import { LOCAL_COMMANDS } from "./parse.ts";
import { PRESENCE_MODES, type PresenceLines } from "./presence.ts";
import type { Transcript } from "./transcript.ts";

/** The commands that change or show something of this client only: no text and no name leaves it. */
export interface LocalParts {
  transcript: Transcript;
  display: Display;
  presence: PresenceLines;
  attention: Attention;
  log: ChatLog | null;
  user: string;
}

/** Carries out a command; `rest` is the line after its word. */
export function runLocal(verb: string, rest: string, columns: number, parts: LocalParts): void {
  const { transcript, display } = parts;
  const word = rest.trim();
  switch (verb) {
    case "presence":
      return setPresence(word, parts);
    case "bell":
      return setBell(word, parts);
    case "find":
      return find(word, parts);
    default:
      if (isPage(word)) return transcript.plain(helpPage(word, columns, display.slash));
      transcript.failure(`there is no page ${word}; ${usage("help")}`);
  }
}

function usage(verb: string): string {
  return `usage: /${LOCAL_COMMANDS[verb]!.usage}`;
}

function setPresence(word: string, { presence, transcript }: LocalParts): void {
  const mode = PRESENCE_MODES.find((each) => each === word);
  if (mode === undefined && word !== "") return transcript.failure(usage("presence"));
  presence.mode = mode ?? presence.mode;
  transcript.note(`presence lines: ${presence.mode}`);
}

function setBell(word: string, { attention, transcript }: LocalParts): void {
  if (!["", "on", "off"].includes(word)) return transcript.failure(usage("bell"));
  if (word !== "") attention.isBellOn = word === "on";
  transcript.note(`bell: ${attention.isBellOn ? "on" : "off"}`);
}

function find(words: string, { transcript, log, user }: LocalParts): void {
  if (words === "") return transcript.failure(usage("find"));
  try {
    const lines = findTexts(words.split(/[ \t]+/), log, transcript.seen, user);
    transcript.plain(lines.length > 0 ? lines : [`nothing has these words: ${words}`]);
  } catch (error) {
    transcript.failure(`cannot search the log: ${(error as Error).message}`);
  }
}
