/** Reports an error of the application that no promise carries: as a warning of the process. */
export function emitWarning(error: unknown): void {
  process.emitWarning(error instanceof Error ? error : String(error));
}
