/** Fields of a mark: message number, time in Unix ms (0: it rests in a mailbox), where its line starts and ends. */
export const MARK = { fields: 4, number: 0, unixMs: 1, start: 2, end: 3 } as const;

/** Other lines between two messages, up to this size, do not make them two runs. */
const GAP_BYTES_MAX = 64;

/** The messages of a stream that its reader has not confirmed, oldest first: a flat list, no object a message. */
export class Marks {
  /** Fields of all marks; those before `first` are confirmed. */
  readonly fields: number[] = [];
  first = 0;
  /** The highest number among the messages that were confirmed. */
  confirmedNumber = 0;
  /** So many fields at the end are new: no copy has them. */
  #newFields = 0;

  add(number: number, unixMs: number, start: number, end: number): void {
    this.fields.push(number, unixMs, start, end);
    this.#newFields += MARK.fields;
  }

  /** The reader has everything before `position`; returns from where on bytes are still needed. */
  confirm(position: number): number {
    const { fields } = this;
    let { first } = this;
    while (first < fields.length && fields[first + MARK.end]! <= position) {
      this.confirmedNumber = fields[first + MARK.number]!;
      first += MARK.fields;
    }
    if (first === fields.length) {
      this.clear();
      return position;
    }
    if (first > 1024 * MARK.fields && first * 2 > fields.length) {
      fields.splice(0, first);
      first = 0;
    }
    this.first = first;
    // A message that is half confirmed must stay whole, since it may have to go back to the mailbox.
    return Math.min(position, fields[first + MARK.start]!);
  }

  clear(): void {
    if (this.fields.length > 0) this.fields.length = 0;
    this.first = this.#newFields = 0;
  }

  /** Calls `take` for each run of marks that were added since the last time, which lie together and are alike. */
  takeNew(take: (first: number, last: number) => void): void {
    const { fields } = this;
    let first = Math.max(this.first, fields.length - this.#newFields);
    this.#newFields = 0;
    while (first < fields.length) {
      let last = first + MARK.fields;
      while (last < fields.length && fields[last + MARK.unixMs] === fields[first + MARK.unixMs]) {
        if (fields[last + MARK.start]! - fields[last - MARK.fields + MARK.end]! > GAP_BYTES_MAX) break;
        last += MARK.fields;
      }
      take(first, last);
      first = last;
    }
  }
}
