import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { Glob } from "bun";
import { WORKERS } from "../src/workers.ts";

const root = join(import.meta.dir, "..");
const sources = [...new Glob("src/**/*.{ts,tsx}").scanSync(root)].filter((file) => !file.endsWith(".d.ts")).sort();
const workers = Object.values(WORKERS).map(({ pathname }) => relative(root, pathname));

/**
 * Replaced names, by the name that replaced them. They are banned as identifiers only: comments and strings may use
 * them as words, and a word that the field uses (order, field, place) is banned only as the name of a type.
 */
const REPLACED: Record<string, string> = {
  // Streams and turns
  markDirty: "touch touches",
  advance: "took",
  materialize: "fold letGo",
  "inSync, join, leave": "inStep stepIn stepOut",
  BufferPool: "Spares",
  BroadcastGroup: "Multicast multicast",
  UnackedIndex: "Marks",
  // Mailboxes, journal and recovery
  spill: "restUpTo",
  "deliveryPending, deliver": "hungry",
  MailboxScheduler: "Checkpoint",
  "WalCheckpointer.isRunning": "isCopied",
  "JournalEntry, EntryWriter": "Fact FactBuffer FactReader",
  MappedRegion: "Place",
  Preallocation: "Filling",
  // Connections and sessions
  PendingConnection: "Newcomer Newcomers",
  AwaitingProxyHeader: "Unnamed",
  Introductions: "Consents consents",
  // Client and terminal
  PeerConnection: "PrivateLine",
  ConnectionAuthorizer: "Doorkeeper",
  PendingReply: "Asker",
  Backoff: "Pauses",
  Output: "Surface surface",
  "runInteractive, runScript": "converse",
  // Benchmarks and system tests
  "BenchmarkRunner, BenchmarkError": "Contest contest ContestError",
  WorkloadSpec: "Order",
  ProtocolAdapter: "Dialect dialect",
  ControlledProcess: "Respondent respondent",
  AttackClient: "Intruder intruder intruders",
  "AttackRunner, AttackStats": "Field Deeds deeds",
  Impact: "Harm harm",
  FaultScenario: "Trouble Troubles troubles",
  "BackgroundLoad, LoadSpec": "Ordinary Talk Talker talker talkers",
  "ChurnClients, ChurnState": "Visitor Visitors visitor visitors Visits visits Square square",
  "FaultModel, RandomFaults": "Weather weather Storm storm",
  ReferenceModel: "Witness witness",
};

/** Comments, strings, templates and regular expressions. A template in a template counts as code in between. */
const NOT_CODE = new RegExp(
  [
    /\/\*[\s\S]*?\*\/|\/\/.*/,
    /"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`/,
    /(?<=[=(,:[!&|?{};]\s*)\/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n])+\/[a-z]*/,
  ]
    .map(({ source }) => source)
    .join("|"),
  "g",
);

/** The replaced names that a source uses as identifiers, with the name to use. */
function replacedNames(source: string): string[] {
  const used = new Set(source.replace(NOT_CODE, '""').match(/[A-Za-z_$][\w$]*/g));
  return Object.entries(REPLACED).flatMap(([name, old]) =>
    old
      .split(" ")
      .filter((each) => used.has(each))
      .map((each) => `${each} is now ${name}`),
  );
}

/** Layer of a file, and what it may import besides its own layer. Server and client never import each other. */
const LAYERS: Record<string, readonly string[]> = {
  base: [],
  runtime: ["base"],
  protocol: ["base"],
  stream: ["base", "protocol"],
  auth: ["base", "runtime", "protocol"],
  chat: ["base", "protocol", "stream", "auth"],
  storage: ["base", "runtime", "protocol", "stream", "auth", "chat"],
  net: ["base", "runtime", "protocol", "stream", "chat"],
  admin: ["base", "protocol", "stream", "auth", "chat", "storage", "net"],
  cluster: ["base", "runtime", "storage"],
  server: ["base", "runtime", "protocol", "stream", "auth", "chat", "storage", "net", "admin", "cluster"],
  client: ["base", "runtime"],
  page: ["base", "client"],
  terminal: ["base", "runtime", "protocol", "client"],
  ctl: ["base", "runtime", "protocol"],
  command: ["runtime", "auth", "server", "terminal", "ctl", "cluster"],
};

/** Files of the project that a source imports, types included. */
function imports(file: string): string[] {
  const text = readFileSync(join(root, file), "utf8");
  const paths = [...text.matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)].map(([, path]) => path!);
  return paths.map((path) => relative(root, join(root, dirname(file), path))).filter((path) => path.startsWith("src/"));
}

function layer(file: string): string {
  const [, folder, rest] = file.split("/");
  if (file === "src/main.ts") return "command";
  return rest === undefined ? "base" : folder!;
}

test("a folder imports only the folders below it", () => {
  const wrong = sources.flatMap((file) =>
    imports(file)
      .filter((to) => layer(to) !== layer(file) && !LAYERS[layer(file)]!.includes(layer(to)))
      .map((to) => `${file} imports ${to}`),
  );
  expect(sources.length).toBeGreaterThan(20);
  expect(wrong).toEqual([]);
});

test("no import cycle exists", () => {
  const cycles: string[] = [];
  const done = new Set<string>();
  const visit = (file: string, path: string[]): void => {
    if (path.includes(file)) return void cycles.push([...path.slice(path.indexOf(file)), file].join(" -> "));
    if (done.has(file)) return;
    for (const to of imports(file)) visit(to, [...path, file]);
    done.add(file);
  };
  for (const file of sources) visit(file, []);
  expect(cycles).toEqual([]);
});

test("every source file is a program or is imported by another file", () => {
  const imported = new Set(sources.flatMap(imports));
  // Programs, workers, the library and the page.
  const programs = ["src/main.ts", "src/client/client.ts", "src/client/web-client.ts", "src/page/main.tsx", ...workers];
  expect(sources.filter((file) => !imported.has(file) && !programs.includes(file))).toEqual([]);
});

test("every worker thread is in the list of workers, from which the executable gets them", () => {
  expect(workers.toSorted()).toEqual(sources.filter((file) => file.endsWith("-worker.ts")));
});

test("a command in a usage text or a hint is written by invocation.ts, in the way the program was started", () => {
  const fixed =
    /Usage: (heartline|bun|npm)|\b(bun run|npm run|bun start|npm start|heartline (serve|chat|passwd|check|ctl|cluster)) /;
  const isComment = /^ *(\*|\/\*\*|\/\/)/;
  const wrong = sources.flatMap((file) => {
    const lines = readFileSync(join(root, file), "utf8").split("\n");
    return lines.filter((line) => fixed.test(line) && !isComment.test(line)).map((line) => `${file}: ${line.trim()}`);
  });
  expect(wrong).toEqual([]);
});

test("a source file has at most 400 lines, and a line at most 120 characters", () => {
  const long = sources.flatMap((file) => {
    const lines = readFileSync(join(root, file), "utf8").split("\n");
    const wide = lines.flatMap((line, index) => (line.length > 120 ? [`${file}:${index + 1}`] : []));
    return lines.length > 400 ? [file, ...wide] : wide;
  });
  expect(long).toEqual([]);
});

test("rules, streams, grammar and timers use no clock, socket or file", () => {
  const pure = sources.filter((file) => ["base", "protocol", "stream", "chat"].includes(layer(file)));
  const impure = /Date\.now|performance\.|setTimeout|setInterval|Bun\.|from "(node:(fs|net)|bun:)/;
  expect(pure.filter((file) => impure.test(readFileSync(join(root, file), "utf8")))).toEqual([]);
});

test("replaced names are not used as identifiers in src, bench and test", () => {
  const files = ["src", "bench", "test"].flatMap((folder) => [...new Glob(`${folder}/**/*.{ts,tsx}`).scanSync(root)]);
  const wrong = files.flatMap((file) =>
    replacedNames(readFileSync(join(root, file), "utf8")).map((name) => `${file}: ${name}`),
  );
  expect(files.length).toBeGreaterThan(200);
  expect(wrong).toEqual([]);
});

test("the check of names finds identifiers, and ignores comments, strings and regular expressions", () => {
  expect(replacedNames("class Field { #weather = 1; }")).toEqual([
    "Field is now AttackRunner, AttackStats",
    "weather is now FaultModel, RandomFaults",
  ]);
  expect(replacedNames("const url = 'http://harm'; // harm\n/* harm */ f(`harm`, /harm\\/[/]harm/g);")).toEqual([]);
});
