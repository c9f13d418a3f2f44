/**
 * A bot that replies to every message with the same text. It runs on Bun and on Node:
 *
 *     HEARTLINE_PASSWORD=passpass bun examples/echo-bot.ts 127.0.0.1 6001 foobar foobar.state
 *     HEARTLINE_PASSWORD=passpass node examples/echo-bot.ts 127.0.0.1 6001 foobar foobar.state
 *
 * The file keeps the state of the session, so that a bot that is killed replies exactly once to each message. For that
 * the loop does not wait for the server: what it does before it asks for the next event is saved together, so the file
 * has the reply if and only if it has that the message was delivered. The client sends a saved reply once.
 */
import { ChatClient, type ChatError, fileState, memoryState } from "heartline/client";

const [host = "127.0.0.1", port = "6001", user = "", file = ""] = process.argv.slice(2);
const state = file === "" ? memoryState() : fileState(file);
const client = new ChatClient({ host, port: Number(port), store: () => state });

process.on("SIGTERM", () => void client.logout());
await client.login(user, process.env.HEARTLINE_PASSWORD ?? "");
console.log(`${user} answers`);
for await (const event of client) {
  if (event.kind !== "message" && event.kind !== "stored") continue;
  client.message(event.from, `you said: ${event.text}`).catch((error: ChatError) => {
    // A user who has blocked the bot, or whose mailbox is full, gets no reply.
    if (error.code !== "closed") console.error(`no reply to ${event.from}: ${error.code}`);
  });
}
process.exit((await client.ended) === "logout" ? 0 : 1);
