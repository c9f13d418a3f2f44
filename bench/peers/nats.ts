import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Peer } from "./peer.ts";

const CONFIG = `
host: 127.0.0.1
max_connections: 200000
max_pending: 1GB
write_deadline: "60s"
ping_interval: "1h"
max_subscriptions: 0
max_payload: 1MB
max_control_line: 4096
logtime: false
`;

/** With GOMAXPROCS=1, since the second core belongs to the load generator. */
export const nats: Peer = {
  name: "nats",
  about: "NATS core: absent users receive nothing; verbose, so each publish has a reply; GOMAXPROCS=1",
  protocol: "nats",
  needs: { program: "nats-server", package: "nats-server" },
  loginsAtOnce: 64,
  version: ["nats-server", "--version"],
  command: ({ folder, port }) => {
    const file = join(folder, "nats.conf");
    writeFileSync(file, `${CONFIG}port: ${port}\n`);
    return ["env", "GOMAXPROCS=1", "nats-server", "-c", file];
  },
};
