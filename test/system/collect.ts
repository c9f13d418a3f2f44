/** Preloaded into a measured server: on SIGUSR1, which the server ignores, it collects all garbage. */
process.on("SIGUSR1", () => Bun.gc(true));
