/**
 * The names of a cluster's streams and of their subjects. A name has a random end where a stream is deleted one day, so
 * that a name is created once: a process that wakes late finds no new stream under the old name.
 */

/** Messages of a stream of the log. `next` closes it: its text is the name of the stream that continues the log. */
export type MessageKind = "turn" | "opened" | "next";

/** Has the one record about the cluster. */
export function clusterStream(cluster: string): string {
  return `${cluster}-cluster`;
}

export function clusterSubject(cluster: string): string {
  return `${cluster}.cluster`;
}

export class ShardNames {
  readonly state: string;
  readonly stateSubject: string;
  /** The subjects of all streams of the log, and of all snapshots. */
  readonly logSubjects: string;
  readonly snapshotSubjects: string;
  readonly #prefix: string;
  readonly #subjectPrefix: string;

  constructor(cluster: string, shard: number) {
    this.#prefix = `${cluster}-${shard}`;
    this.#subjectPrefix = `${cluster}.${shard}`;
    this.state = `${this.#prefix}-state`;
    this.stateSubject = `${this.#subjectPrefix}.state`;
    this.logSubjects = `${this.#subjectPrefix}.log.*.*`;
    this.snapshotSubjects = `${this.#subjectPrefix}.snapshot.*`;
  }

  /** A new stream that continues the log after record `base`. */
  newLog(base: number): string {
    return `${this.#prefix}-log-${base}-${random()}`;
  }

  /** A new stream for a snapshot up to record `sequence`. */
  newSnapshot(sequence: number): string {
    return `${this.#prefix}-snapshot-${sequence}-${random()}`;
  }

  /** The subjects of a stream of the log. */
  logSubject(stream: string, kind: MessageKind | "*"): string {
    return `${this.#subjectPrefix}.log.${stream.slice(`${this.#prefix}-log-`.length)}.${kind}`;
  }

  snapshotSubject(stream: string): string {
    return `${this.#subjectPrefix}.snapshot.${stream.slice(`${this.#prefix}-snapshot-`.length)}`;
  }
}

/** The number in the name of a stream of the log (its base) or of a snapshot. */
export function numberOf(stream: string): number {
  return Number(stream.split("-").at(-2));
}

export function kindOf(subject: string): MessageKind {
  return subject.slice(subject.lastIndexOf(".") + 1) as MessageKind;
}

function random(): string {
  return Buffer.from(crypto.getRandomValues(new Uint8Array(6))).toString("hex");
}
