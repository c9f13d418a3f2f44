import { callbacks } from "./callbacks.ts";
import { chat } from "./chat.ts";
import { credentials } from "./credentials.ts";
import { display } from "./display.ts";
import { facts } from "./facts.ts";
import { journal } from "./journal.ts";
import { linkOutcomes } from "./link-outcomes.ts";
import { linkRequests } from "./link-requests.ts";
import { lineReader } from "./line-reader.ts";
import { privateListener } from "./private-listener.ts";
import { proxyHeader } from "./proxy-header.ts";
import { requests } from "./requests.ts";
import { stateFile } from "./state-file.ts";
import type { Target } from "./target.ts";
import { httpRequest, webSocketFrames } from "./websocket.ts";

export const targets: readonly Target[] = [
  lineReader,
  requests,
  chat,
  linkOutcomes,
  linkRequests,
  privateListener,
  callbacks,
  journal,
  facts,
  display,
  stateFile,
  credentials,
  proxyHeader,
  webSocketFrames,
  httpRequest,
];
