/** Other makers' TLS, where it is installed; null where it is not, and what needs it is skipped. */
export const openssl = Bun.which("openssl");
export const python = pythonWithSsl();

function pythonWithSsl(): string | null {
  const found = Bun.which("python3");
  return found !== null && Bun.spawnSync([found, "-c", "import ssl"]).exitCode === 0 ? found : null;
}

/** Says loudly what is skipped. */
export function tellSkipped(who: string): void {
  if (openssl === null) console.log(`SKIPPED: the ${who} with openssl (there is none)`);
  if (python === null) console.log(`SKIPPED: the ${who} with Python's ssl (there is no python3 that has it)`);
}
