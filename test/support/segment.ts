import type { Segment } from "../../src/storage/segment.ts";

/** A segment of the journal in memory: one of the files. */
export function segmentIn(files: Map<string, Buffer>, name: string): Segment {
  const bytes = files.get(name)!;
  const segment: Segment = {
    name,
    bytes,
    rename: (to) => {
      files.delete(segment.name);
      files.set(to, bytes);
      segment.name = to;
    },
    remove: () => void files.delete(segment.name),
    isThere: () => files.get(segment.name) === bytes,
    sync: () => Promise.resolve(),
    syncNow: () => {},
  };
  return segment;
}
