import { ModelledEngine, ModelledLog } from "../support/modelled-log.ts";
import { testSharedLog } from "./conformance.ts";

testSharedLog("a modelled engine", { server: false, damage: false, exactTrim: true }, async (shards) => {
  const data = new ModelledEngine(shards);
  return { open: async () => new ModelledLog(data), server: null, damage: null, close: async () => {} };
});
