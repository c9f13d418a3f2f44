/**
 * A bot that replies to every message with the same text.
 *
 *     HEARTLINE_PASSWORD=passpass bun examples/echo-bot.ts 127.0.0.1 6001 foobar
 *
 * The client acknowledges a message when the promise of `onEvent` is resolved: here, when the server has accepted the
 * reply. A bot that is killed before that gets the message again at its next start.
 */
import { ChatClient, ChatError, type ChatEvent } from "heartline/client";

const [host = "127.0.0.1", port = "6001", user = ""] = process.argv.slice(2);
const client = new ChatClient({ host, port: Number(port), onEvent });

async function onEvent(event: ChatEvent): Promise<void> {
  if (event.kind !== "message" && event.kind !== "stored") return;
  try {
    await client.message(event.from, `you said: ${event.text}`);
  } catch (error) {
    // A user who has blocked the bot, or whose mailbox is full, gets no reply.
    if (!(error instanceof ChatError)) throw error;
    console.error(`no reply to ${event.from}: ${error.code}`);
  }
}

process.on("SIGTERM", () => void client.logout());
await client.login(user, process.env.HEARTLINE_PASSWORD ?? "");
console.log(`${user} answers`);
const reason = await client.ended;
process.exit(reason === "logout" ? 0 : 1);
