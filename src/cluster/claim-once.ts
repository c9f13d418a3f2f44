import { Appender } from "./appender.ts";
import { engine } from "./shard-backup.ts";
import type { OwnerInfo, SharedLog } from "./shared-log.ts";

/** The claim of a command, which serves nobody: it gives no signs of life, and its OwnerInfo has no address. */

/** The engine may be away for this long. */
const AWAY_MS = 10_000;

/** Returns the epoch; 0 when another process was first. Rejects with StoreError. */
export async function claimOnce(log: SharedLog, shard: number, expected: number, info: OwnerInfo): Promise<number> {
  const untilMs = performance.now() + AWAY_MS;
  const appender: Appender = new Appender({
    log,
    shard,
    ended: () => {},
    pause: async (ms) => {
      if (performance.now() > untilMs) throw appender.error;
      await Bun.sleep(ms);
    },
  });
  return (await engine(() => appender.claim(expected, info))) ? appender.epoch : 0;
}
