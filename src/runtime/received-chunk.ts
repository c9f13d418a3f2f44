/** The memory of chunks that the runtime's sockets deliver. */

/** Freeing a smaller chunk costs more than it saves. */
const LARGE_BYTES_MIN = 4096;

/**
 * Frees the memory of a large chunk at once, unless the chunk is only a part of a buffer. With garbage collection every
 * new chunk is memory that was not touched before, and costs page faults: 0.52 instead of 0.50 µs of CPU per message in
 * `npm run bench -- --scenario message --clients 64 --window 1000 --sessions resumable`.
 */
export function release(chunk: Uint8Array): void {
  if (chunk.length < LARGE_BYTES_MIN || chunk.length < chunk.buffer.byteLength) return;
  (chunk.buffer as ArrayBuffer).transfer(0);
}

/** Chunks of a socket, for a `LineReader`. */
export const RECEIVED_CHUNKS = { release };
