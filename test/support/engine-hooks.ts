import { afterAll, beforeAll, beforeEach } from "bun:test";
import { initLog } from "../../src/cluster/open-log.ts";
import type { Engine, RunningEngine } from "./engines.ts";

/** The engine that the tests of a block share, and the cluster of the present test. */
export interface EngineOfTests {
  engine: RunningEngine;
  /** Of the cluster. */
  url: string;
}

/** For a block of tests: one engine for all of them, and a new cluster for each. `limitMs` is for the start. */
export function useEngine({ start, closeAll }: Engine, shards: number, limitMs: number): Readonly<EngineOfTests> {
  const used = {} as EngineOfTests;
  beforeAll(async () => void (used.engine = await start()), limitMs);
  beforeEach(async () => {
    used.url = await used.engine.newUrl();
    await initLog(used.url, shards);
  });
  afterAll(closeAll);
  return used;
}
