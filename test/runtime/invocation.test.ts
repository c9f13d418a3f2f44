import { afterAll, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Start, typedAs } from "../../src/runtime/invocation.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const userFolder = join(folder, "bin");
const scriptFolder = join(folder, "node_modules/.bin");
for (const each of [userFolder, scriptFolder]) {
  mkdirSync(each, { recursive: true });
  for (const name of ["heartline", "bun"]) {
    if (each === scriptFolder && name === "heartline") continue;
    writeFileSync(join(each, name), "");
    chmodSync(join(each, name), 0o755);
  }
}
afterAll(() => rmSync(folder, { recursive: true }));

const BUN = "/opt/heartline/node_modules/bun/bin/bun.exe";
const START: Start = {
  isExecutable: false,
  env: { PATH: "/usr/bin" },
  argv0: "/x/bun",
  execPath: BUN,
  cwd: "/home/alice",
  root: "/opt/heartline",
};
const CHAT = ["chat", "127.0.0.1", "6001"];

/** The environment of a script of package.json. */
const script = (event: string, agent: string, more: Record<string, string> = {}) => ({
  PATH: `${scriptFolder}:/usr/bin`,
  npm_package_name: "heartline",
  npm_lifecycle_event: event,
  npm_config_user_agent: agent,
  ...more,
});

test("a command of an npm script is written as npm run with -- before its options", () => {
  const start = { ...START, env: script("start", "npm/11.0.0 node/v22.0.0", { INIT_CWD: "/opt/heartline/docs" }) };
  expect(typedAs(start, CHAT)).toBe("npm run client -- 127.0.0.1 6001");
  expect(typedAs(start, ["serve"])).toBe("npm start --");
  expect(typedAs(start, ["ctl", "who"])).toBe("npm run heartline -- ctl who");
  expect(typedAs(start, [])).toBe("npm run heartline --");
});

test("npm that was started in another folder is named with --prefix", () => {
  const start = { ...START, env: script("client", "npm/11.0.0", { INIT_CWD: "/opt/heartline-2" }) };
  expect(typedAs(start, ["passwd", "--migrate"])).toBe("npm --prefix /opt/heartline run passwd -- --migrate");
});

test("a command of a bun script is written as bun run, with bun's path if only scripts have it on their PATH", () => {
  const env = script("start", "bun/1.4.5 npm/?", { npm_execpath: BUN });
  expect(typedAs({ ...START, env }, CHAT)).toBe(`${BUN} run client 127.0.0.1 6001`);
  const withBun = { ...START, env: { ...env, PATH: `${scriptFolder}:${userFolder}` } };
  expect(typedAs(withBun, CHAT)).toBe("bun run client 127.0.0.1 6001");
  expect(typedAs(withBun, ["serve"])).toBe("bun start");
  expect(typedAs(withBun, ["check"])).toBe("bun run heartline check");
});

test("scripts of other packages and other scripts of this one do not count as the way it was started", () => {
  const direct = "/x/bun /opt/heartline/src/main.ts chat 127.0.0.1 6001";
  expect(typedAs({ ...START, env: script("test", "npm/11.0.0") }, CHAT)).toBe(direct);
  const other = { ...script("start", "npm/11.0.0"), npm_package_name: "website" };
  expect(typedAs({ ...START, env: other }, CHAT)).toBe(direct);
});

test("bun that runs src/main.ts is named as it was typed, with the path from the present folder", () => {
  expect(typedAs({ ...START, argv0: "./bun", cwd: "/opt" }, CHAT)).toBe(
    "./bun heartline/src/main.ts chat 127.0.0.1 6001",
  );
  expect(typedAs({ ...START, argv0: "./bun", cwd: null }, ["help"])).toBe("./bun /opt/heartline/src/main.ts help");
  const onPath = { ...START, argv0: "bun", env: { PATH: userFolder } };
  expect(typedAs(onPath, ["help"])).toBe("bun /opt/heartline/src/main.ts help");
  expect(typedAs({ ...START, argv0: "bun" }, ["help"])).toBe(`${BUN} /opt/heartline/src/main.ts help`);
});

test("the installed command is named without its folder if the user's PATH has it, and else with its path", () => {
  const called = (HEARTLINE_COMMAND: string, PATH: string, more = {}) => ({
    ...START,
    env: { HEARTLINE_COMMAND, PATH, ...more },
  });
  expect(typedAs(called(join(userFolder, "heartline"), userFolder), CHAT)).toBe("heartline chat 127.0.0.1 6001");
  expect(typedAs(called("/x/heartline", userFolder), CHAT)).toBe("/x/heartline chat 127.0.0.1 6001");
  expect(typedAs(called("bin/heartline", "/usr/bin"), ["help"])).toBe("bin/heartline help");
  expect(typedAs(called("heartline", "/usr/bin"), ["help"])).toBe("/opt/heartline/bin/heartline help");
  // npx: the folder of the command is on the PATH of this process only.
  const npx = join(scriptFolder, "bun");
  expect(typedAs(called(npx, scriptFolder, { npm_lifecycle_event: "npx" }), ["help"])).toBe(`${npx} help`);
});

test("the executable is named as it was called", () => {
  const start = { ...START, isExecutable: true, execPath: "/srv/dist/heartline" };
  expect(typedAs({ ...start, argv0: "dist/heartline" }, CHAT)).toBe("dist/heartline chat 127.0.0.1 6001");
  expect(typedAs({ ...start, argv0: "heartline", env: { PATH: userFolder } }, ["help"])).toBe("heartline help");
  expect(typedAs({ ...start, argv0: "heartline" }, ["help"])).toBe("/srv/dist/heartline help");
});

test("words that a shell would change are quoted", () => {
  const start = { ...START, argv0: "./my bun", cwd: "/opt/heartline" };
  expect(typedAs(start, ["passwd", "--migrate", "it's $x", ""])).toBe(
    `'./my bun' src/main.ts passwd --migrate 'it'\\''s $x' ''`,
  );
});
