/**
 * Sends one message and exits, for scripts that alert a user. Exits with 0 when the server has stored the message, so
 * that the recipient gets it now or at the next login, and with 1 when it was not sent.
 *
 *     HEARTLINE_PASSWORD=passpass bun examples/notify.ts 127.0.0.1 6001 foobar columbia "the build is done"
 */
import { ChatClient, ChatError } from "heartline/client";

const [host = "127.0.0.1", port = "6001", user = "", to = "", text = ""] = process.argv.slice(2);
const client = new ChatClient({ host, port: Number(port), giveUpMs: 10_000 });
try {
  await client.login(user, process.env.HEARTLINE_PASSWORD ?? "");
  const outcome = await client.message(to, text);
  console.log(outcome === "sent" ? `${to} is online` : `${to} gets it at the next login`);
  await client.logout();
} catch (error) {
  const { code, message } = error as ChatError;
  console.error(`not sent: ${code ?? message}`);
  process.exitCode = 1;
} finally {
  client.close();
}
