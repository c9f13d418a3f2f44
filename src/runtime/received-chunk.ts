/** The memory of chunks that the runtime's sockets deliver. */

/** Freeing a smaller chunk costs more than it saves. */
const LARGE_BYTES_MIN = 4096;

/**
 * Frees the memory of a large chunk at once, unless the chunk is only a part of a buffer. With garbage collection every
 * new chunk is memory that was not touched before, and its page faults cost more than to read the lines in it.
 */
export function release(chunk: Uint8Array): void {
  if (chunk.length < LARGE_BYTES_MIN || chunk.length < chunk.buffer.byteLength) return;
  (chunk.buffer as ArrayBuffer).transfer(0);
}

/** Chunks of a socket, for a `LineReader`. */
export const RECEIVED_CHUNKS = { release };
