/** Which users may block which, and what a process of clients knows about the state of a block. */

/** User n may block user n - DISTANCE only. */
const DISTANCE = 3;

/** Whether the user `by` may ever block `other`. */
export function mayBlock(by: string, other: string): boolean {
  return Number(by.slice(1)) - Number(other.slice(1)) === DISTANCE;
}

export type BlockState = "blocked" | "free" | "unknown";

/** A block of one user by another, as the process of both knows it. It is unknown while a request has no reply. */
export class Block {
  readonly by: string;
  readonly other: string;
  state: BlockState;
  /** A `block` or `unblock` has no reply. */
  isPending = false;
  /** Number of changes so far, also of those that may have happened. */
  changes = 0;

  constructor(by: string, other: string, state: BlockState) {
    this.by = by;
    this.other = other;
    this.state = state;
  }

  set(state: BlockState): void {
    this.state = state;
    this.changes++;
  }

  /** The state, if it has not changed since there were `changes` changes; otherwise unknown. */
  stateSince(changes: number): BlockState {
    return changes === this.changes ? this.state : "unknown";
  }
}
