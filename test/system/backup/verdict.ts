import type { Flow } from "./check.ts";
import type { Bounds } from "./load.ts";

/** What is wrong in a backup that was requested at the time of `before`, and checked at that of `after`. */
export function faultsOf(flows: readonly Flow[], before: readonly Bounds[], after: readonly Bounds[]): string[] {
  return before.flatMap(({ from, to, accepted, acked }) => {
    const ackedMax = after.find((each) => each.from === from && each.to === to)!.ackedMax;
    const flow = flows.find((each) => each.from === from && each.to === to);
    if (flow === undefined) return ackedMax >= accepted ? [] : [`none of ${from} to ${to}, and ${accepted} accepted`];
    const { first, last, count, isInOrder } = flow;
    const has = `${from} to ${to}: ${first} to ${last}`;
    const faults: string[] = [];
    if (!isInOrder) faults.push(`${has}, but ${count} in all or not in order`);
    if (last < accepted) faults.push(`${has}, but ${accepted} were accepted before`);
    if (first > ackedMax + 1) faults.push(`${has}, but only ${ackedMax} were acknowledged`);
    if (first <= acked) faults.push(`${has}, but ${acked} were acknowledged before`);
    return faults;
  });
}
