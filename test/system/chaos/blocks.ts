/** How far behind a user in the list the one is whom that user may block. */
const DISTANCE = 3;

/** Whether that user may ever block that other one. */
export function mayBlock(by: string, other: string): boolean {
  return Number(by.slice(1)) - Number(other.slice(1)) === DISTANCE;
}

export type BlockState = "blocked" | "free" | "unknown";

/** A user's block of another one, as far as the process of both can know: only what is answered is known. */
export class Block {
  readonly by: string;
  readonly other: string;
  state: BlockState;
  /** A change was asked for, and has no answer. */
  isPending = false;
  /** How often it has changed, or may have. */
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

  /** What it was all the time since so many changes. */
  stateSince(changes: number): BlockState {
    return changes === this.changes ? this.state : "unknown";
  }
}
