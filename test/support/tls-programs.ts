/** Other TLS implementations; null where one is not installed, and its tests are skipped. */
export const openssl = Bun.which("openssl");
export const python = pythonWithSsl();

function pythonWithSsl(): string | null {
  const found = Bun.which("python3");
  return found !== null && Bun.spawnSync([found, "-c", "import ssl"]).exitCode === 0 ? found : null;
}

/** Prints which tests are skipped. */
export function tellSkipped(tests: string): void {
  if (openssl === null) console.log(`SKIPPED: the ${tests} with openssl (not installed)`);
  if (python === null) console.log(`SKIPPED: the ${tests} with Python's ssl (no python3 with module ssl)`);
}
