/** The progress of something that takes longer than a second. */

/** Interval of the lines. */
const PROGRESS_MS = 1_000;

/**
 * Shows the part that is done, from 0 to 1, once a second from now on: on a terminal, as a line on stderr. `shown`
 * receives the same text in any case.
 */
export function progressOf(what: string, shown: (text: string) => void = () => {}): (part: number) => void {
  let shownMs = performance.now();
  return (part) => {
    if (performance.now() - shownMs < PROGRESS_MS) return;
    shownMs = performance.now();
    const text = `${what}: ${Math.floor(part * 100)} %`;
    shown(text);
    if (process.stderr.isTTY) process.stderr.write(`${text}\n`);
  };
}
