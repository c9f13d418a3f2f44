import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FakeServer } from "../support/fake-server.ts";
import { freePort } from "../support/free-port.ts";
import { ServerProcess } from "../support/process.ts";
import { Pty } from "../support/pty.ts";
import { drawPicture } from "../terminal/picture.ts";

let folder: string;
const ptys: Pty[] = [];
const servers: ServerProcess[] = [];

beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), "heartline-"))));

afterEach(async () => {
  for (const pty of ptys.splice(0)) {
    pty.kill("SIGKILL");
    await pty.exited;
    pty.end();
  }
  await ServerProcess.killAll();
  rmSync(folder, { recursive: true });
});

function open(user: string, password: string, port: number): Pty {
  const pty = new Pty(["src/main.ts", "chat", `${user}@127.0.0.1:${port}`], {
    columns: 80,
    rows: 24,
    env: { XDG_STATE_HOME: folder, XDG_CONFIG_HOME: folder, HEARTLINE_PASSWORD: password },
  });
  ptys.push(pty);
  return pty;
}

function serve(port: number): ServerProcess {
  const server = new ServerProcess("--host", "127.0.0.1", "--port", String(port), "--data", join(folder, "data"));
  servers.push(server);
  return server;
}

test("the picture in README.md can be drawn, and shows a chat before and after a crash of the server", async () => {
  const svg = await drawPicture();
  expect(svg).toStartWith("<svg ");
  const text = svg.replace(/<[^>]*>/g, "").replaceAll("&gt;", ">");
  for (const part of [
    "✉ SEAS: the build",
    "✓ to SEAS: are you there?",
    "… to SEAS: and after",
    "* back after",
    "SEAS>",
  ])
    expect(text).toContain(part);
}, 60_000);

test("a server that does not answer for 5 seconds is reported, with the prompt and its return", async () => {
  const replies: (() => void)[] = [];
  const silent = new FakeServer((line, connection) => {
    if (line.startsWith("login")) connection.send(`ok ${"t".repeat(22)} 35\n`);
    else if (line === "online") connection.send("ok SEAS\n");
    else if (line.startsWith("alive")) connection.send("ok 1\n");
    else replies.push(() => connection.send("ok sent\n"));
  });
  const pty = open("columbia", "secret", silent.port);
  await pty.sees("here: SEAS");
  pty.type("/to SEAS\r");
  await pty.until((lines) => lines.at(-1) === "SEAS>");
  pty.type("are you there?\r");
  await pty.sees("… to SEAS: are you there?");
  await pty.sees("* no answer for 5 s; what you type waits");
  await pty.until((lines) => lines.at(-1) === "(no answer) SEAS>");
  for (const reply of replies) reply();
  await pty.sees("✓ to SEAS: are you there?");
  await pty.until((lines) => /\* back after \d+ s without an answer/.test(lines.join()) && lines.at(-1) === "SEAS>");
  silent.stop();
}, 30_000);

test("two people talk on while the server is killed several times: no line is lost, none comes twice", async () => {
  const port = freePort();
  await serve(port).port();
  const columbia = open("columbia", "116bway", port);
  const seas = open("SEAS", "summerisover", port);
  const sides = [
    { pty: columbia, to: "SEAS" },
    { pty: seas, to: "columbia" },
  ];
  for (const { pty, to } of sides) {
    await pty.until((lines) => lines.at(-1) === ">");
    pty.type(`/to ${to}\r`);
    await pty.until((lines) => lines.at(-1) === `${to}>`);
  }
  for (let round = 0; round < 3; round++) {
    servers.at(-1)!.kill("SIGKILL");
    await servers.at(-1)!.exits();
    for (const { pty, to } of sides) {
      await pty.until((lines) => lines.at(-1) === `(lost) ${to}>`);
      pty.type(`round ${round};\r`);
      await pty.sees(`… to ${to}: round ${round};`);
    }
    await serve(port).port();
    for (const { pty, to } of sides) await pty.until((lines) => lines.at(-1) === `${to}>`);
    for (const { pty } of sides) {
      // As waiting, its state, and the line of the other one.
      await pty.until((lines) => lines.filter((line) => line.includes(`round ${round};`)).length === 3);
    }
  }
  for (const { pty, to } of sides) {
    const from = pty.lines.filter((line) => new RegExp(`^\\d\\d:\\d\\d (✉ )?${to}: round`).test(line));
    expect(from.map((line) => line.replace(/.*: /, ""))).toEqual(["round 0;", "round 1;", "round 2;"]);
  }
}, 60_000);
