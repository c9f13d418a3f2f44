import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Peer } from "./peer.ts";

/** Without limits on clients and output buffers, and without persistence. */
const CONFIG = `
bind 127.0.0.1
protected-mode no
save ""
appendonly no
client-output-buffer-limit pubsub 0 0 0
client-output-buffer-limit normal 0 0 0
maxclients 19000
tcp-backlog 4096
timeout 0
tcp-keepalive 0
slowlog-log-slower-than -1
latency-monitor-threshold 0
io-threads 1
loglevel warning
`;

export const redis: Peer = {
  name: "redis",
  about: "Redis pub/sub: absent users receive nothing; each publish has a reply",
  protocol: "redis",
  needs: { program: "redis-server", package: "redis-server" },
  loginsAtOnce: 64,
  version: ["redis-server", "--version"],
  command: ({ folder, port }) => {
    const file = join(folder, "redis.conf");
    writeFileSync(file, `${CONFIG}port ${port}\ndir ${folder}\n`);
    return ["redis-server", file];
  },
};
