/** The client library with the database of the page as its store. */
import { BaseClient, type BaseClientOptions } from "../client/base-client.ts";
import type { ChatSession } from "../client/session.ts";
import { StreamSession } from "../client/stream-session.ts";
import { webSocketOptions } from "../client/web-socket.ts";
import type { Database } from "./database.ts";

export class PageClient extends BaseClient {
  protected readonly session: ChatSession;

  constructor(url: string, database: Database, options: BaseClientOptions) {
    super(options);
    const session = webSocketOptions({ ...options, url, store: () => database });
    const open: typeof session.open = async (...args) => {
      // A connection takes the session from the one before it, so only the owner of the session opens one.
      await database.owned();
      return session.open(...args);
    };
    this.session = new StreamSession({ ...session, open }, this.sessionListener);
  }
}
