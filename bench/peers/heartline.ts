import { join } from "node:path";
import { spawned } from "../../src/runtime/invocation.ts";
import type { Peer } from "./peer.ts";

/** This server with resumable sessions. */
export function resumable(): Peer {
  return {
    ...heartline("process"),
    name: "heartline-resumable",
    about: "this server, resumable sessions",
    resumable: true,
  };
}

/** This server with the given durability. Like the other servers, it has no rate limit and no idle timeout here. */
export function heartline(durability: "none" | "process" | "power"): Peer {
  return {
    name: durability === "process" ? "heartline" : `heartline-${durability}`,
    about: `this server, --durability ${durability}`,
    protocol: "heartline",
    needs: null,
    loginsAtOnce: 64,
    version: null,
    command: ({ folder, port, credentials }) => [
      ...spawned("serve"),
      "--host",
      "127.0.0.1",
      "--port",
      String(port),
      "--credentials",
      credentials,
      "--data",
      join(folder, "data"),
      "--durability",
      durability,
      "--heartbeat-interval",
      "3600",
      "--rate-limit",
      "0",
    ],
  };
}
