/**
 * A service that alerts people: it takes alerts over HTTP and sends them as messages. One session serves all requests.
 * It runs on Node and on Bun:
 *
 *     HEARTLINE_PASSWORD=passpass node examples/alert-service.ts 127.0.0.1 6001 foobar 8080
 *     curl -d '{"to":"columbia","text":"the disk is full"}' http://127.0.0.1:8080/
 *
 * The answer is `{"outcome":"sent"}` or `{"outcome":"stored"}` when the server has the alert safe. While the server is
 * away an alert waits for 5 seconds; then it is taken back, the answer is 503, and it will not be sent later.
 */
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { ChatClient, ChatError } from "heartline/client";

const WAIT_MS = 5_000;
const BODY_BYTES_MAX = 16_384;
const [host = "127.0.0.1", port = "6001", user = "", httpPort = "0"] = process.argv.slice(2);
// This user only sends: nobody reads what others write to it.
const client = new ChatClient({ host, port: Number(port), onEvent: () => {} });

const server = createServer(async (request, response) => {
  const reply = (status: number, value: object): void => void response.writeHead(status).end(JSON.stringify(value));
  if (Number(request.headers["content-length"] ?? Infinity) > BODY_BYTES_MAX) return reply(413, { error: "too_long" });
  try {
    const alert = JSON.parse(await text(request)) as { to: string; text: string };
    const signal = AbortSignal.timeout(WAIT_MS);
    reply(200, { outcome: await client.message(String(alert.to), String(alert.text), { signal }) });
  } catch (error) {
    const isRefused = error instanceof ChatError || error instanceof SyntaxError;
    reply(isRefused ? 400 : 503, { error: error instanceof ChatError ? error.code : String(error) });
  }
});

process.on("SIGTERM", () => {
  server.close();
  void client.logout();
});
await client.login(user, process.env.HEARTLINE_PASSWORD ?? "");
server.listen(Number(httpPort), "127.0.0.1", () => {
  console.log(`alerts at http://127.0.0.1:${(server.address() as { port: number }).port}/`);
});
process.exitCode = (await client.ended) === "logout" ? 0 : 1;
server.close();
