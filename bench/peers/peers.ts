import { baseline } from "./baseline.ts";
import { heartline, resumable } from "./heartline.ts";
import { inspircd } from "./inspircd.ts";
import { nats } from "./nats.ts";
import { ngircd } from "./ngircd.ts";
import { node } from "./node.ts";
import type { Peer } from "./peer.ts";
import { redis } from "./redis.ts";
import { websocket } from "./websocket.ts";

/** All peers, in the order of the reports. */
export const PEERS: readonly Peer[] = [
  heartline("process"),
  heartline("none"),
  heartline("power"),
  resumable(),
  baseline,
  nats,
  redis,
  inspircd,
  ngircd,
  websocket,
  node,
];
