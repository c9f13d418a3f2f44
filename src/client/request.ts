/** What a request may consist of. What is refused here is not sent. */
import { ChatError } from "./errors.ts";
import { encodeText } from "./event.ts";

/** A space in a name would make two words of it, and an LF two requests. */
export function oneWord(text: string): string {
  if (text === "" || /[ \r\n]/.test(text)) throw new ChatError("bad_request", "a name or password must be one word");
  return text;
}

/** The server drops one CR before the LF, so a text that ends in CR gets a second one. */
export function oneLine(text: string): string {
  if (text === "" || text.includes("\n")) throw new ChatError("bad_request", "a text must be one line and not empty");
  return text.endsWith("\r") ? `${text}\r` : text;
}

/** The bytes of a request with its LF. Throws `line_too_long`, with the limit, when the server takes fewer. */
export function requestBytes(line: string, bytesMax: number): number {
  const bytes = encodeText(line).length + 1;
  if (bytes <= bytesMax) return bytes;
  throw new ChatError("line_too_long", `${bytes} bytes are more than the ${bytesMax} of a request; send less at once`);
}
