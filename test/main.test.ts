import { expect, test } from "bun:test";
import { join } from "node:path";
import { version } from "../package.json";
import { run, runWith } from "./support/process.ts";

/** How these tests start it. */
const PROGRAM = `${process.execPath} src/main.ts`;
const heartline = (...args: string[]) => run("src/main.ts", ...args);

test("without a command heartline exits with 2 and names the command that lists them", async () => {
  const err = `heartline: give a command (${PROGRAM} help lists the commands)\n`;
  expect(await heartline()).toEqual({ out: "", err, code: 2 });
});

test.each([
  ["serve", "options"],
  ["check", "options"],
  ["chat", "options"],
  ["passwd", "options"],
  ["ctl", "commands"],
  ["cluster", "options"],
])("after an invalid command line %s names the command that prints its help", async (name, what) => {
  const hint = name === "check" ? "serve" : name;
  const err = `heartline: unknown option '--wat' (${PROGRAM} help ${hint} lists the ${what})\n`;
  expect(await heartline(name, "--wat")).toEqual({ out: "", err, code: 2 });
});

test("an unknown command is reported with its name and exit code 2", async () => {
  for (const name of ["wat", "constructor", "", "serve.ts"]) {
    const err = `heartline: there is no command ${JSON.stringify(name)} (${PROGRAM} help lists the commands)\n`;
    expect(await heartline(name)).toEqual({ out: "", err, code: 2 });
    if (name !== "") expect(await heartline("help", name)).toEqual({ out: "", err, code: 2 });
  }
});

test.each(["help", "--help", "-h"])("%s lists every command", async (word) => {
  const { out, err, code } = await heartline(word);
  expect({ err, code }).toEqual({ err: "", code: 0 });
  for (const command of ["serve", "chat", "check", "passwd", "ctl", "cluster", "bench", "version", "help"])
    expect(out).toContain(`\n  ${command} `);
});

test.each(["serve", "chat", "check", "passwd", "ctl", "cluster", "bench"])(
  "help %s prints what %s --help prints",
  async (command) => {
    const page = await heartline(command, "--help");
    expect(page).toMatchObject({ err: "", code: 0 });
    expect(page.out).toStartWith(`Usage: ${PROGRAM} ${command} `);
    expect(await heartline("help", command)).toEqual(page);
  },
);

test.each(["version", "--version"])("%s prints the version in package.json", async (word) => {
  expect(await heartline(word)).toEqual({ out: `heartline ${version}\n`, err: "", code: 0 });
});

test.each([
  ["help", 1],
  ["version", 1],
  ["help serve", 1],
  ["help passwd", 1],
  ["help bench", 1],
  ["help chat", 3],
])("%s reports in one line that standard output cannot be written, and exits with %i", async (words, code) => {
  const page = await runWith({ onFullDisk: true }, "src/main.ts", ...words.split(" "));
  expect(page).toEqual({
    out: "",
    err: expect.stringMatching(/^(heartline|bench): cannot write: ENOSPC[^\n]*\n$/),
    code,
  });
});

test.each(["help", "version", "passwd --help", "serve --help"])(
  "%s exits with 0 when its reader is gone",
  async (words) => {
    const script = `{ sleep 0.1; "$0" src/main.ts ${words}; echo $? >&2; } | :`;
    const child = Bun.spawn(["sh", "-c", script, process.execPath], {
      cwd: join(import.meta.dir, ".."),
      stdin: "ignore",
      stderr: "pipe",
    });
    expect(await child.stderr.text()).toBe("0\n");
  },
);

test("the commands work in a folder that was deleted", async () => {
  const script = 'cd "$(mktemp -d)" && rmdir "$PWD" && exec "$0" "$1" version';
  const command = ["sh", "-c", script, process.execPath, join(import.meta.dir, "../src/main.ts")];
  const child = Bun.spawn(command, { stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  expect(await child.stdout.text()).toBe(`heartline ${version}\n`);
  expect(await child.exited).toBe(0);
});
