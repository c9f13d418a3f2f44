import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { gzipSync } from "bun";
import { scripts } from "../../package.json";

/** Bytes that a browser loads, compressed by gzip. */
const BYTES_MAX = 60_000;

const root = join(import.meta.dir, "../..");
const folder = mkdtempSync(join(tmpdir(), "heartline-"));
let files: string[] = [];
const read = (file: string): string => readFileSync(join(folder, file), "utf8");

beforeAll(() => {
  const command = scripts["build:page"]
    .replaceAll("dist/page", folder)
    .replace("bun build", `${process.execPath} build`);
  const { exitCode, stderr } = Bun.spawnSync(["sh", "-c", command], { cwd: root, stderr: "pipe" });
  if (exitCode !== 0) throw new Error(stderr.toString());
  files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((file) => basename(file).includes("."));
});

afterAll(() => rmSync(folder, { recursive: true }));

test("the page has less than 60 KB, compressed", () => {
  const bytes = files.reduce((sum, file) => sum + gzipSync(Buffer.from(read(file))).length, 0);
  expect(bytes).toBeGreaterThan(10_000);
  expect(bytes).toBeLessThan(BYTES_MAX);
});

test("all files but index.html have names that change with their content", () => {
  const others = files.filter((file) => file !== "index.html");
  expect(others.filter((file) => !/^assets\/[\w-]+-[a-z\d]{8}\.(js|css|svg)$/.test(file))).toEqual([]);
  expect(others.map((file) => file.split(".").at(-1)!).toSorted()).toEqual(["css", "js", "js", "svg"]);
});

test("nothing is inline, and everything that index.html loads is in the folder", () => {
  const html = read("index.html");
  expect(html).not.toMatch(/<script(?![^>]*src=)|<style|\son\w+=|\sstyle=|javascript:/i);
  const loaded = [...html.matchAll(/(?:src|href)="\.\/([^"]+)"/g)].map(([, path]) => path!);
  expect(loaded.length).toBe(3);
  for (const path of loaded) expect(files).toContain(path);
  expect(html).not.toMatch(/https?:/);
});

test("the page makes no elements of texts and evaluates none, and its code names no other site", () => {
  const forbidden = /\w*innerHTML|insertAdjacent\w+|outerHTML|document\.write|\beval\b|new Function/gi;
  const sources = readdirSync(join(root, "src/page")).map((file) => readFileSync(join(root, "src/page", file), "utf8"));
  expect(sources.join("\n").match(forbidden)).toBeNull();
  const code = files.filter((file) => file.endsWith(".js")).map(read);
  const urls = code.join("\n").match(/(https?|wss?):\/\/[\w.-]+/g);
  expect([...new Set(urls)].toSorted()).toEqual(["http://www.w3.org", "wss://chat.example.org"]);
});
