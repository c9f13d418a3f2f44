/**
 * A bot that replies to every message with the same text. It runs on Bun and on Node:
 *
 *     HEARTLINE_PASSWORD=passpass bun examples/echo-bot.ts 127.0.0.1 6001 foobar foobar.state
 *     HEARTLINE_PASSWORD=passpass node examples/echo-bot.ts 127.0.0.1 6001 foobar foobar.state
 *
 * The client acknowledges a message when the loop asks for the next one: here, when the server has accepted the reply.
 * The file keeps the state of the session, so that a bot that is killed replies exactly once to each message.
 */
import { ChatClient, ChatError, fileState, memoryState } from "heartline/client";

const [host = "127.0.0.1", port = "6001", user = "", file = ""] = process.argv.slice(2);
const state = file === "" ? memoryState() : fileState(file);
const client = new ChatClient({ host, port: Number(port), store: () => state });

process.on("SIGTERM", () => void client.logout());
await client.login(user, process.env.HEARTLINE_PASSWORD ?? "");
console.log(`${user} answers`);
for await (const event of client) {
  if (event.kind !== "message" && event.kind !== "stored") continue;
  try {
    await client.message(event.from, `you said: ${event.text}`);
  } catch (error) {
    // A user who has blocked the bot, or whose mailbox is full, gets no reply.
    if (!(error instanceof ChatError)) throw error;
    console.error(`no reply to ${event.from}: ${error.code}`);
  }
}
process.exit((await client.ended) === "logout" ? 0 : 1);
