import { afterAll, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import { readPage } from "../../src/server/page-files.ts";
import { Folders } from "../support/command.ts";

const folders = new Folders();
afterAll(() => folders.remove());

test("the page is at /, and its files are at their names, compressed where that is shorter", async () => {
  const folder = folders.make();
  mkdirSync(join(folder, "assets"));
  const html = `<!doctype html>${"<p>hello</p>".repeat(50)}`;
  writeFileSync(join(folder, "index.html"), html);
  writeFileSync(join(folder, "assets", "app-1a2b.js"), "0");
  writeFileSync(join(folder, "assets", "app-1a2b.js.map"), "{}");
  writeFileSync(join(folder, "assets", "icon-3c4d.svg"), "<svg/>");
  const page = (await readPage(folder))!;
  expect([...page.keys()].toSorted()).toEqual(["/", "/assets/app-1a2b.js", "/assets/icon-3c4d.svg"]);
  const { bodies, ...index } = page.get("/")!;
  expect(index).toEqual({ type: "text/html; charset=utf-8", cache: "no-store" });
  expect([...bodies.keys()]).toEqual(["br", "gzip", "identity"]);
  expect(brotliDecompressSync(bodies.get("br")!).toString()).toBe(html);
  expect(gunzipSync(bodies.get("gzip")!).toString()).toBe(html);
  const script = page.get("/assets/app-1a2b.js")!;
  expect(script.type).toBe("text/javascript; charset=utf-8");
  expect(script.cache).toBe("public, max-age=31536000, immutable");
  expect([...script.bodies.keys()]).toEqual(["identity"]);
  expect(page.get("/assets/icon-3c4d.svg")!.type).toBe("image/svg+xml");
});

test("without a folder, or without index.html in it, there is no page", async () => {
  const folder = folders.make();
  expect(await readPage(join(folder, "none"))).toBeNull();
  writeFileSync(join(folder, "app.js"), "0");
  expect(await readPage(folder)).toBeNull();
});
