/**
 * The format of a payload: a mark (message or broadcast), the sender's index, a sequence number, the time at which it
 * was due, and the number of the run, in digits of 6 bits; then filler. All bytes are printable, so every protocol can
 * carry them. native-swarm.c has the same format.
 */
export const MESSAGE_MARK = 126;
export const BROADCAST_MARK = 124;
export const PAYLOAD_BYTES_MIN = 17;
const [SENDER, SEQUENCE, STAMP, RUN] = [1, 4, 9, 14] as const;
const ZERO = 48;
const FILLER = 120;
/** Stamps count tenths of a microsecond and wrap around after 107 s. Latencies are shorter than that. */
const STAMP_MASK = 2 ** 30 - 1;

/** A number that no other run has: a server may still have messages of earlier runs, which must not count. */
export function newRun(): number {
  return Math.floor(Math.random() * 2 ** 18);
}

/** A payload of `bytes` bytes from `sender`. `stampPayload` writes the sequence number and the stamp. */
export function newPayload(mark: number, sender: number, run: number, bytes: number): Buffer {
  const payload = Buffer.alloc(bytes, FILLER);
  payload[0] = mark;
  writeDigits(payload, SENDER, 3, sender);
  writeDigits(payload, RUN, 3, run);
  return payload;
}

/** Writes sequence number and stamp into the payload at bytes[start..]. */
export function stampPayload(bytes: Buffer, start: number, sequence: number, stamp: number): void {
  writeDigits(bytes, start + SEQUENCE, 5, sequence);
  writeDigits(bytes, start + STAMP, 5, stamp);
}

export function senderOf(bytes: Uint8Array, start: number): number {
  return readThreeDigits(bytes, start + SENDER);
}

export function runOf(bytes: Uint8Array, start: number): number {
  return readThreeDigits(bytes, start + RUN);
}

export function sequenceOf(bytes: Uint8Array, start: number): number {
  return readDigits(bytes, start + SEQUENCE);
}

/** Tenths of a microsecond between the payload's due time and the stamp `now`. */
export function ageOf(bytes: Uint8Array, start: number, now: number): number {
  return (now - readDigits(bytes, start + STAMP)) & STAMP_MASK;
}

/** A time of `performance.now()` as a stamp. */
export function stampAt(nowMs: number): number {
  return Math.floor(nowMs * 10_000) % (STAMP_MASK + 1);
}

function writeDigits(bytes: Buffer, at: number, count: number, value: number): void {
  for (let i = at + count - 1, left = value; i >= at; i--, left >>>= 6) bytes[i] = ZERO + (left & 63);
}

function readThreeDigits(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! - ZERO) << 12) | ((bytes[at + 1]! - ZERO) << 6) | (bytes[at + 2]! - ZERO);
}

function readDigits(bytes: Uint8Array, at: number): number {
  return (
    ((bytes[at]! - ZERO) << 24) |
    ((bytes[at + 1]! - ZERO) << 18) |
    ((bytes[at + 2]! - ZERO) << 12) |
    ((bytes[at + 3]! - ZERO) << 6) |
    (bytes[at + 4]! - ZERO)
  );
}
