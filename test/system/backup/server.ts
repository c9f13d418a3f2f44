/**
 * A server that backs up at a line of stdin: the path of the new folder. It prints a line of JSON when it listens and
 * for each backup. Its arguments are those of `serve`.
 */
import pino from "pino";
import { readCredentials } from "../../../src/auth/credentials.ts";
import { setSlice } from "../../../src/runtime/kernel.ts";
import { parseConfig } from "../../../src/server/config.ts";
import { BoundedLog } from "../../../src/server/bounded-log.ts";
import { CLOCK, Server } from "../../../src/server/server.ts";
import { openStore } from "../../../src/storage/recovery.ts";

const config = parseConfig(process.argv.slice(2))!;
const { store } = openStore(config.data, config.durability, {
  salvage: false,
  unixMs: Date.now(),
  progress: () => {},
});
setSlice(100);
const log = new BoundedLog(pino({ level: "warn" }), CLOCK.nowMs);
const exit = async (code: number): Promise<never> => process.exit(code);
const server = new Server(config, readCredentials(config.credentials), store, log, exit);
const { plain } = server.listen();
process.stdout.write(`${JSON.stringify({ port: Number(/\d+$/.exec(plain!.address)![0]) })}\n`);
process.on("SIGTERM", async () => process.exit((await server.stop()) ? 0 : 1));

for await (const path of console) {
  const startMs = performance.now();
  const error = await store.backup(path).then(
    () => null,
    ({ message }: Error) => message,
  );
  process.stdout.write(`${JSON.stringify({ error, ms: performance.now() - startMs })}\n`);
}
