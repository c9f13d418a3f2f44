/** Preloaded into a measured server: on SIGUSR2 it collects all garbage. */
process.on("SIGUSR2", () => Bun.gc(true));
