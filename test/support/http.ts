import { connect } from "node:net";

/** An HTTP server's response to these bytes, or to a GET of a path; "" when it closes without one. */
export function exchange(at: { port: number } | { path: string }, request: string): Promise<string> {
  const bytes = request.startsWith("/") ? `GET ${request} HTTP/1.1\r\nHost: a\r\n\r\n` : request;
  const { promise, resolve } = Promise.withResolvers<string>();
  const socket = connect("port" in at ? { host: "127.0.0.1", port: at.port } : at, () => socket.write(bytes, "latin1"));
  let response = "";
  socket.setEncoding("utf8");
  socket.on("data", (text: string) => (response += text));
  socket.on("error", () => {});
  socket.on("close", () => resolve(response));
  return promise;
}

/** Status and body of a response. */
export async function get(at: { port: number } | { path: string }, path: string): Promise<[number, string]> {
  const response = await exchange(at, path);
  return [Number(response.slice(9, 12)), response.slice(response.indexOf("\r\n\r\n") + 4)];
}

/** The samples of the text format, by name and labels. */
export function samplesOf(text: string): Map<string, number> {
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.slice(line.lastIndexOf(" ")))]),
  );
}
