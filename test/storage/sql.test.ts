import { expect, test } from "bun:test";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { openDatabase } from "../../src/storage/database.ts";
import { SQL } from "../../src/storage/sql.ts";

const folder = join(import.meta.dir, "../../src/storage");

test("only sql.ts has SQL", () => {
  const isSql = /["'`]\s*(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|PRAGMA|BEGIN|COMMIT)\b/;
  const files = readdirSync(folder).filter((name) => isSql.test(readFileSync(join(folder, name), "utf8")));
  expect(files).toEqual(["sql.ts"]);
});

test.each(Object.entries(SQL))("the statement %s fits the schema", (_name, sql) => {
  using database = openDatabase(":memory:", "none");
  database.prepare(sql).finalize();
});
