/**
 * A bridge for other programs: sends what it reads as JSON, one object a line, and prints what it receives as JSON. It
 * logs out at the end of the input, when every line has its outcome. It runs on Bun and on Node:
 *
 *     echo '{"to":"columbia","text":"hi"}' | HEARTLINE_PASSWORD=passpass node examples/bridge.ts 127.0.0.1 6001 foobar
 *
 * prints `{"line":1,"outcome":"sent"}`, and messages as `{"from":"columbia","text":"hello"}`.
 */
import { createInterface } from "node:readline";
import { ChatClient, type ChatEvent } from "heartline/client";

const [host = "127.0.0.1", port = "6001", user = ""] = process.argv.slice(2);

/** Resolves when the output has taken the line: only then the event is acknowledged. */
function print(value: object): Promise<void> {
  return new Promise((resolve, reject) =>
    process.stdout.write(`${JSON.stringify(value)}\n`, (error) => (error ? reject(error) : resolve())),
  );
}

async function onEvent(event: ChatEvent): Promise<void> {
  if (event.kind === "message" || event.kind === "stored") await print({ from: event.from, text: event.text });
}

const client = new ChatClient({ host, port: Number(port), onEvent });
await client.login(user, process.env.HEARTLINE_PASSWORD ?? "");

async function send(line: number, json: string): Promise<void> {
  try {
    const { to, text } = JSON.parse(json) as { to: string; text: string };
    await print({ line, outcome: await client.message(String(to), String(text)) });
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    await print({ line, error: code ?? message });
  }
}

const sent: Promise<void>[] = [];
for await (const json of createInterface({ input: process.stdin })) sent.push(send(sent.length + 1, json));
await Promise.all(sent);
await client.catchUp();
await client.logout();
