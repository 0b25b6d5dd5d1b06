import type { Transport } from "@connectrpc/connect";

/** How the client reaches one node. */
export interface Connection {
  /** A transport of Connect: any protocol, any library that makes one. */
  readonly transport: Transport;
  /**
   * Whether the transport carries bidirectional streams, which takes HTTP/2 and no browser. Then concurrent calls share messages of one `Exec` stream. Otherwise
   * concurrent puts and deletes share requests, and reads are requests of their own. The default is false.
   */
  readonly duplex?: boolean;
  /** Closes what the transport keeps open. */
  close?(): void;
}

/** Makes the connection to a node from its base URL, such as `http://127.0.0.1:8080`. */
export type Connector = (baseUrl: string) => Connection;
