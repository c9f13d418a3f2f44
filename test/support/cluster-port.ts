import pino from "pino";
import { Admission } from "../../src/net/admission.ts";
import { type ServerHandlers, socketHandlers } from "../../src/net/socket-handlers.ts";
import { World } from "./chat.ts";

/** What the port for other servers needs of a server, which has no users here. */
export function newAdmission(): [admission: Admission, handlers: ServerHandlers] {
  const world = new World([]);
  const admission = new Admission(world.connections, null, pino({ level: "silent" }));
  const handlers = socketHandlers(
    () => world.begin(),
    admission,
    (error) => {
      throw error;
    },
  );
  return [admission, handlers];
}
