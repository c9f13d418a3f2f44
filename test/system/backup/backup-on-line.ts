/** Preloaded into a server: makes a backup for each line of stdin, the path of the new folder. Prints JSON for each. */
import { Store } from "../../../src/storage/store.ts";

const found = Promise.withResolvers<Store>();
const { retry } = Store.prototype;

/** The server calls it every second. */
Store.prototype.retry = function () {
  found.resolve(this);
  retry.call(this);
};

async function backUp(): Promise<void> {
  for await (const path of console) {
    const store = await found.promise;
    const beganMs = performance.now();
    const error = await store.backup(path).then(
      () => null,
      ({ message }: Error) => message,
    );
    process.stdout.write(`${JSON.stringify({ error, ms: performance.now() - beganMs })}\n`);
  }
}

void backUp();
