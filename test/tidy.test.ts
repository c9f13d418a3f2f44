import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { Glob } from "bun";

const root = join(import.meta.dir, "..");
const sources = [...new Glob("src/**/*.ts").scanSync(root)].sort();

/** Layer of a file, and what it may import besides its own layer. Server and client never meet. */
const LAYERS: Record<string, readonly string[]> = {
  base: [],
  runtime: ["base"],
  protocol: ["base"],
  stream: ["base", "protocol"],
  auth: ["base", "runtime", "protocol"],
  chat: ["base", "protocol", "stream", "auth"],
  storage: ["base", "runtime", "protocol", "stream", "auth", "chat"],
  net: ["base", "runtime", "protocol", "stream", "chat"],
  server: ["base", "runtime", "protocol", "stream", "auth", "chat", "storage", "net"],
  client: ["base", "runtime", "protocol", "stream"],
  terminal: ["base", "runtime", "protocol", "client"],
  command: ["auth", "server", "terminal"],
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

test("no file imports itself by a detour", () => {
  const circles: string[] = [];
  const done = new Set<string>();
  const visit = (file: string, path: string[]): void => {
    if (path.includes(file)) return void circles.push([...path.slice(path.indexOf(file)), file].join(" -> "));
    if (done.has(file)) return;
    for (const to of imports(file)) visit(to, [...path, file]);
    done.add(file);
  };
  for (const file of sources) visit(file, []);
  expect(circles).toEqual([]);
});

test("every source file is imported by another one or is a program", () => {
  const imported = new Set(sources.flatMap(imports));
  // Programs, workers and the library; `hash-worker` exports a type and is imported for that.
  const programs = ["main", "storage/wal-checkpoint-worker", "client/client"].map((name) => `src/${name}.ts`);
  expect(sources.filter((file) => !imported.has(file) && !programs.includes(file))).toEqual([]);
});

test("files stay under 400 lines, and lines under 121 characters", () => {
  const long = sources.flatMap((file) => {
    const lines = readFileSync(join(root, file), "utf8").split("\n");
    const wide = lines.flatMap((line, index) => (line.length > 120 ? [`${file}:${index + 1}`] : []));
    return lines.length > 400 ? [file, ...wide] : wide;
  });
  expect(long).toEqual([]);
});

test("the rules, the streams and the wheel read no clock and touch no socket or disk", () => {
  const pure = sources.filter((file) => ["base", "protocol", "stream", "chat"].includes(layer(file)));
  const impure = /Date\.now|performance\.|setTimeout|setInterval|Bun\.|from "(node:(fs|net)|bun:)/;
  expect(pure.filter((file) => impure.test(readFileSync(join(root, file), "utf8")))).toEqual([]);
});
