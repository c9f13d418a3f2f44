import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { takePassword, unknownVariables, variableOf } from "../src/environment.ts";
import { runWith } from "./support/process.ts";

test("the variable of an option is its name in capitals, with underscores", () => {
  expect(variableOf("data")).toBe("HEARTLINE_DATA");
  expect(variableOf("tls-only")).toBe("HEARTLINE_TLS_ONLY");
});

test("variables with the prefix that belong to no option are unknown, except that of the password", () => {
  const env = {
    HEARTLINE_DATA: "",
    HEARTLINE_DATE: "",
    HEARTLINE_PASSWORD: "",
    HEARTLINE_: "",
    heartline_x: "",
    X: "",
  };
  expect(unknownVariables(env, ["data"])).toEqual(["HEARTLINE_", "HEARTLINE_DATE"]);
});

test("the password is taken out of the environment", () => {
  const env = { HEARTLINE_PASSWORD: "secret", PATH: "/bin" };
  expect(takePassword(env)).toBe("secret");
  expect(env).toEqual({ PATH: "/bin" } as typeof env);
  expect(takePassword(env)).toBeNull();
});

test("heartline chat removes the password from its environment before it reads its command line", async () => {
  const folder = mkdtempSync(join(tmpdir(), "heartline-"));
  const report = join(folder, "report.ts");
  writeFileSync(report, 'process.on("exit", () => console.log(process.env.HEARTLINE_PASSWORD));');
  const env = { HEARTLINE_PASSWORD: "secret" };
  const { out, code } = await runWith({ env }, "--preload", report, "src/main.ts", "chat");
  rmSync(folder, { recursive: true });
  expect({ out, code }).toEqual({ out: "undefined\n", code: 2 });
});
