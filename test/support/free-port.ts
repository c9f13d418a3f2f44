/** Below the ephemeral ports of Linux (from 32768), so that the port is still free when the server starts again. */
const PORT_MIN = 10_000;
const PORT_MAX = 32_000;
/** Processes that start at the same time take a while until they listen. */
const given = new Set<number>();

/** A port without a listener, and not one that was given before. */
export function freePort(): number {
  for (;;) {
    const port = PORT_MIN + Math.floor(Math.random() * (PORT_MAX - PORT_MIN));
    if (given.has(port)) continue;
    try {
      Bun.listen({ hostname: "127.0.0.1", port, socket: { data: () => {} } }).stop();
      given.add(port);
      return port;
    } catch {
      // The port is in use.
    }
  }
}
