import { COMMANDS, type Section, usageOf } from "./commands.ts";
import { LOCAL_COMMANDS } from "./parse.ts";

/** The help of a person, in pages that fit a terminal. A script prints HELP_LINES. */

const TITLES: Record<Section, string> = {
  talk: "Talking",
  people: "People",
  private: "Private chats, directly between two clients",
  screen: "This client",
};
const SECTIONS = Object.keys(TITLES) as Section[];
const FIRST: Section[] = ["talk", "people"];
const LOCAL_SECTIONS: Record<string, Section> = { to: "talk", r: "talk", help: "screen" };

/** Keys, as a part of the page "screen". */
const KEYS: [key: string, effect: string][] = [
  ["Tab", "completes; on an empty line: the next partner"],
  ["Up, Down", "bring back lines typed before"],
  ["Esc", "discards what is asked about"],
  ["Ctrl+C, Ctrl+D", "clears the line; on an empty line: leaves"],
];

/** With fewer columns the explanation is in the next row. */
const WIDE_COLUMNS = 78;
const USAGE_COLUMNS = 25;

/** Whether there is a page of that name. */
export function isPage(page: string): boolean {
  return page === "" || page === "all" || Object.hasOwn(TITLES, page);
}

/** The lines of a page; "" is the first one. `slash`: what the server's commands begin with at the moment. */
export function helpPage(page: string, columns: number, slash: string): string[] {
  const shown: Section[] = page === "all" ? SECTIONS : page === "" ? FIRST : [page as Section];
  const lines = shown.flatMap((section) => [TITLES[section], ...entries(section, slash).flatMap(entryLines(columns))]);
  const others = SECTIONS.filter((section) => !shown.includes(section));
  if (others.length === 0) return lines;
  return [...lines, `More: ${others.map((section) => `/help ${section}`).join(", ")}`];
}

function entries(section: Section, slash: string): [usage: string, help: string][] {
  const server = Object.entries(COMMANDS).filter(([, command]) => command.section === section);
  const local = Object.entries(LOCAL_COMMANDS).filter(([verb]) => (LOCAL_SECTIONS[verb] ?? "screen") === section);
  return [
    ...server.map(([verb, command]): [string, string] => [`${slash}${usageOf(verb, command)}`, command.help]),
    ...local.map(([, { usage, help }]): [string, string] => [`/${usage}`, help]),
    ...(section === "screen" ? KEYS : []),
    ...(section === "talk" && slash === "/" ? ([["//<text>", "says a text that begins with a slash"]] as const) : []),
  ].map(([usage, help]): [string, string] => [usage, help]);
}

function entryLines(columns: number): (entry: [usage: string, help: string]) => string[] {
  return ([usage, help]) => {
    if (columns < WIDE_COLUMNS || usage.length > USAGE_COLUMNS) return [`  ${usage}`, `      ${help}`];
    return [`  ${usage.padEnd(USAGE_COLUMNS)}${help}`];
  };
}
