import { setPriority } from "node:os";

/** A thread that verifies one password after the other, and gives way to the chat on a core that they share. */

/** What it is asked; it answers with the verdict, or says what is wrong with the hash. */
export interface Question {
  password: Uint8Array;
  hash: string;
}

declare const self: Worker;

/** Of this thread alone (Linux). Not the least: logins must go on while something else takes the whole core. */
setPriority(10);

self.onmessage = ({ data: { password, hash } }: MessageEvent<Question>) => {
  try {
    self.postMessage(Bun.password.verifySync(password, hash));
  } catch (error) {
    self.postMessage((error as Error).message);
  }
};
