/**
 * Draws the picture of the terminal client in README.md: `bun test/terminal/picture.ts [file]`. It is the screen of a
 * real client in a real chat, whose server is killed and started again.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChatClient } from "../../src/client/client.ts";
import { freePort } from "../support/free-port.ts";
import { ServerProcess } from "../support/process.ts";
import { Pty, type StyledText } from "../support/pty.ts";

const COLUMNS = 76;
const ROWS = 19;
const [CELL, ROW, MARGIN] = [8.43, 19, 16];
const COLORS =
  "484f58 ff7b72 3fb950 d29922 58a6ff bc8cff 39c5cf b1bac4 6e7681 ffa198 56d364 e3b341 79c0ff d2a8ff 56d4dd f0f6fc".split(
    " ",
  );

export async function drawPicture(): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "heartline-"));
  const serve = (port: number): ServerProcess =>
    new ServerProcess("--host", "127.0.0.1", "--port", String(port), "--data", join(folder, "data"));
  const port = freePort();
  let server = serve(port);
  await server.port();
  const seas = new ChatClient({ host: "127.0.0.1", port });
  await seas.login("SEAS", "summerisover");
  await seas.message("columbia", "the build is green, I go home");
  const pty = new Pty(["src/main.ts", "chat", `columbia@127.0.0.1:${port}`], {
    columns: COLUMNS,
    rows: ROWS,
    env: { XDG_STATE_HOME: folder, XDG_CONFIG_HOME: folder },
  });
  const say = async (line: string, seen = line): Promise<void> => {
    pty.type(`${line}\r`);
    await pty.sees(seen);
  };
  try {
    await pty.sees("Password:");
    await say("116bway", "1 message waited for you");
    await say("/to seas", "SEAS>");
    await say("are you there?", "✓ to SEAS: are you there?");
    await seas.message("columbia", "yes, what is it?");
    await pty.sees("what is it?");
    await seas.broadcast("lunch at noon, all");
    await pty.sees("lunch at noon");
    await say("online in a minute", "Enter again");
    await say("", "✓ to SEAS: online in a minute");
    server.kill("SIGKILL");
    await server.exits();
    await pty.until((lines) => lines.at(-1) === "(lost) SEAS>");
    await say("and after a crash of the server?", "… to SEAS: and after");
    server = serve(port);
    // Stored if SEAS comes back later.
    await pty.until((lines) => lines.some((line) => /[✓✉] to SEAS: and after/.test(line)));
    await pty.sees("* back after");
    await seas.message("columbia", "still here");
    await pty.sees("still here");
    await say("/msg foobar see you tomorrow", "✉ to foobar");
    await pty.until((lines) => lines.at(-1) === "SEAS>");
    return svg(pty.styled);
  } finally {
    pty.end();
    seas.close();
    server.kill("SIGTERM");
    await server.exits();
    rmSync(folder, { recursive: true });
  }
}

function svg(rows: StyledText[][]): string {
  const [width, height] = [Math.ceil(COLUMNS * CELL + 2 * MARGIN), ROWS * ROW + 2 * MARGIN];
  const lines = rows.map((runs, row) => {
    const y = MARGIN + (row + 0.75) * ROW;
    let column = 0;
    const spans = runs.map(({ text, color, isBold, isDim }) => {
      const at = (MARGIN + column * CELL).toFixed(1);
      column += text.length;
      const fill = color < 0 ? "" : ` fill="#${COLORS[color]}"`;
      const weight = isBold ? ' font-weight="bold"' : "";
      return `<tspan x="${at}"${fill}${weight}${isDim ? ' fill-opacity="0.6"' : ""}>${escaped(text)}</tspan>`;
    });
    return `<text y="${y.toFixed(1)}">${spans.join("")}</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">
<title>The terminal client: texts with their states, and a server that is killed and started again</title>
<rect width="100%" height="100%" rx="8" fill="#0d1117"/>
<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="14" fill="#e6edf3" xml:space="preserve">
${lines.join("\n")}
</g>
</svg>
`;
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

if (import.meta.main) {
  const [file = join(import.meta.dir, "../../docs/terminal.svg")] = process.argv.slice(2);
  writeFileSync(file, await drawPicture());
  process.exit(0);
}
