import { expect, test } from "bun:test";
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { Glob } from "bun";
import { LOG_EVENTS } from "../src/runtime/log.ts";
import { USAGE } from "../src/server/config.ts";

const root = join(import.meta.dir, "..");
const README_LINES_MAX = 150;
const pages = ["README.md", "SECURITY.md", "CONTRIBUTING.md", ...new Glob("docs/*.md").scanSync(root)].sort();

/** A page without fenced code, where brackets and `#` are not Markdown. */
function withoutFences(page: string): string {
  return readFileSync(join(root, page), "utf8").replace(/^ *```[\s\S]*?^ *```$/gm, "");
}

/** The targets of all links and pictures of a page, except those to other sites. */
function links(page: string): string[] {
  const text = withoutFences(page).replace(/`[^`\n]*`/g, "");
  const targets = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target!);
  return targets.filter((target) => !/^[a-z]+:/.test(target));
}

/** The anchors that GitHub makes of a page's headings: lower case, no punctuation, hyphens for spaces. */
function anchors(file: string): Set<string> {
  const found = new Set<string>();
  for (const [, heading] of withoutFences(file).matchAll(/^#{1,6} (.+)$/gm)) {
    const anchor = heading!
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, "")
      .replaceAll(" ", "-");
    let unique = anchor;
    for (let i = 1; found.has(unique); i++) unique = `${anchor}-${i}`;
    found.add(unique);
  }
  return found;
}

/** The reason why a link is broken; null for a valid link. */
function failure(page: string, target: string): string | null {
  const [path = "", anchor] = target.split("#");
  const file = path === "" ? page : relative(root, join(root, dirname(page), path));
  if (file.startsWith("..")) return `${page}: ${target} leaves the repository`;
  if (!existsSync(join(root, file))) return `${page}: ${target} does not exist`;
  if (anchor === undefined) return null;
  if (!statSync(join(root, file)).isFile() || !file.endsWith(".md")) return `${page}: ${target} has no headings`;
  return anchors(file).has(anchor) ? null : `${page}: ${target} names no heading`;
}

test("every relative link and anchor of the documents exists", () => {
  const all = pages.flatMap((page) => links(page).map((target) => failure(page, target)));
  expect(all.length).toBeGreaterThan(100);
  expect(all.filter((each) => each !== null)).toEqual([]);
});

test("the check of links finds a missing file, a missing heading and a path outside the repository", () => {
  expect(failure("docs/protocol.md", "../src/nowhere.ts")).toContain("does not exist");
  expect(failure("README.md", "docs/protocol.md#nothing")).toContain("names no heading");
  expect(failure("README.md", "../elsewhere")).toContain("leaves the repository");
  expect(failure("docs/protocol.md", "#what-an-attacker-can-do")).toBeNull();
});

test("README.md has fewer than 150 lines and contains the two commands of the installation", () => {
  const text = readFileSync(join(root, "README.md"), "utf8");
  expect(text.trimEnd().split("\n").length).toBeLessThan(README_LINES_MAX);
  expect(text).toContain("\n    npm install && npm start ");
  expect(text).toContain("\n    npm install && npm test ");
});

test("docs/operating.md lists exactly the options of the server", () => {
  const text = readFileSync(join(root, "docs/operating.md"), "utf8");
  const [manual = "", rest] = text.split("\n## Passwords\n");
  const inManual = [...manual.matchAll(/^\| `(--[\w-]+)/gm)].map(([, option]) => option!);
  expect(rest).toBeDefined();
  expect(inManual.toSorted()).toEqual([...USAGE.matchAll(/^ {2}(--[\w-]+)/gm)].map(([, option]) => option!).toSorted());
});

test("docs/operating.md lists exactly the events of the log", () => {
  const text = readFileSync(join(root, "docs/operating.md"), "utf8");
  const [, section = ""] = /\n## Log\n([^]*?)\n## /.exec(text) ?? [];
  const inManual = [...section.matchAll(/^\| `(\w+)`/gm)].map(([, event]) => event!);
  expect(inManual).toEqual([...LOG_EVENTS]);
});

test("every class member in docs/architecture.md exists in a file that declares the class", () => {
  const sources = [...new Glob("src/**/*.ts").scanSync(root)].map((file) => readFileSync(join(root, file), "utf8"));
  const text = readFileSync(join(root, "docs/architecture.md"), "utf8");
  const members = [...text.matchAll(/`([A-Z]\w+)\.(#?\w+)`/g)].map(([, type, member]) => ({ type, member }));
  const missing = members.filter(({ type, member }) => {
    const declaring = sources.filter((source) => new RegExp(`\\b(class|interface) ${type}\\b`).test(source));
    return !declaring.some((source) => new RegExp(`(^|\\W)${member}\\b`).test(source));
  });
  expect(members.length).toBeGreaterThan(40);
  expect(missing).toEqual([]);
});

test("the workflow of GitHub runs .ci/run for each push and pull request", () => {
  const text = readFileSync(join(root, ".github/workflows/ci.yml"), "utf8");
  const { on, jobs } = Bun.YAML.parse(text) as { on: object; jobs: { test: { steps: { run?: string }[] } } };
  expect(Object.keys(on)).toEqual(["push", "pull_request"]);
  expect(jobs.test.steps.map(({ run }) => run)).toContain("bash .ci/run");
});
