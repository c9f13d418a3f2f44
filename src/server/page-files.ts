/**
 * The files of the page, from the folder that `npm run build:page` makes, `dist/page`: `index.html`, and files with the
 * hash of their content in their names. `npm pack` contains that folder. The executable of `npm run build` contains
 * `dist/page.tar` of it instead, as an embedded file: its names need not be known when the code is bundled.
 */
import { readdirSync, readFileSync } from "node:fs";
import { extname, join } from "node:path";
import { promisify } from "node:util";
import { brotliCompress, gzip } from "node:zlib";
import type { Asset, Page } from "../net/web-client.ts";

const FOLDER = join(import.meta.dir, "..", "..", "dist", "page");
const ARCHIVE = /^page-[^/]*\.tar$/;
const INDEX = "index.html";

const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};
/** Browsers ask for the page each time, and for its other files once: their names change with their content. */
const NOT_CACHED = "no-store";
const CACHED = "public, max-age=31536000, immutable";

/** Why there is no page, for the operator. */
export const NO_PAGE = "there is no page at --web: the folder dist/page was not built";

/** By their paths below `/`; null when the page was not built. */
export async function readPage(folder = FOLDER): Promise<Page> {
  const files = Bun.isStandaloneExecutable ? await embeddedFiles() : filesIn(folder);
  if (!files.has(INDEX)) return null;
  const assets = [...files].filter(([name]) => extname(name) in TYPES).map(([name, bytes]) => assetOf(name, bytes));
  return new Map(await Promise.all(assets));
}

async function embeddedFiles(): Promise<Map<string, Buffer>> {
  const archive = Bun.embeddedFiles.find((file) => ARCHIVE.test((file as File).name));
  if (archive === undefined) return new Map();
  const files = await new Bun.Archive(await archive.arrayBuffer()).files();
  const read = [...files].map(async ([name, file]): Promise<[string, Buffer]> => {
    return [name.replace(/^\.\//, ""), Buffer.from(await file.arrayBuffer())];
  });
  return new Map(await Promise.all(read));
}

function filesIn(folder: string): Map<string, Buffer> {
  try {
    const entries = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    const paths = entries.map(({ parentPath, name }) => join(parentPath, name));
    return new Map(paths.map((path) => [path.slice(folder.length + 1), readFileSync(path)]));
  } catch {
    return new Map(); // The folder is missing as a rule.
  }
}

async function assetOf(name: string, bytes: Buffer): Promise<[string, Asset]> {
  const bodies = new Map<string, Buffer>([
    ["br", await promisify(brotliCompress)(bytes)],
    ["gzip", await promisify(gzip)(bytes, { level: 9 })],
  ]);
  for (const [coding, body] of bodies) if (body.length >= bytes.length) bodies.delete(coding);
  bodies.set("identity", bytes);
  const isIndex = name === INDEX;
  const asset = { type: TYPES[extname(name)]!, cache: isIndex ? NOT_CACHED : CACHED, bodies };
  return [isIndex ? "/" : `/${name}`, asset];
}
