/** `read` returns the value, or the values by `label`. */
export interface OwnMetric<Source extends unknown[] = []> {
  name: string;
  help: string;
  label?: string;
  read: (...source: Source) => number | Iterable<readonly [label: string, value: number]>;
}
