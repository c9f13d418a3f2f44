/**
 * Opens a backup as a server does, and prints the flows of messages in its mailboxes as JSON. Argument: the folder.
 */
import { openStore } from "../../../src/storage/recovery.ts";
import { USERS } from "./load.ts";

/** The messages of one sender in the mailbox of one user, by their numbers. */
export interface Flow {
  from: string;
  to: string;
  first: number;
  last: number;
  count: number;
  isInOrder: boolean;
}

if (import.meta.main) {
  const options = { salvage: false, unixMs: Date.now(), progress: () => {} };
  const { store } = openStore(process.argv[2]!, "process", options);
  const flows = USERS.flatMap((to) => {
    const bySender = new Map<string, Flow>();
    for (const { from, text } of store.read(to, 0, Number.POSITIVE_INFINITY)) {
      const number = Number.parseInt(Buffer.from(text).toString("latin1"), 10);
      const flow = bySender.get(from) ?? { from, to, first: number, last: number - 1, count: 0, isInOrder: true };
      flow.isInOrder &&= number === flow.last + 1;
      flow.last = number;
      flow.count++;
      bySender.set(from, flow);
    }
    return [...bySender.values()];
  });
  store.close();
  process.stdout.write(`${JSON.stringify(flows)}\n`);
}
