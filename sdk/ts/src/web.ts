/**
 * Connections of browsers, and of whatever else has `fetch`. They need no HTTP/2, so concurrent writes share requests and not streams.
 *
 * @module
 */
import { createConnectTransport, createGrpcWebTransport, type ConnectTransportOptions } from "@connectrpc/connect-web";
import type { Connector } from "./connection.js";

export type { Connection, Connector } from "./connection.js";

/** What is passed on to the transport, such as `fetch` (to send credentials, say) and `interceptors`. */
export type WebOptions = Omit<ConnectTransportOptions, "baseUrl">;

/** Speaks Connect, which is the default where there is no Node. */
export function connectWeb(options: WebOptions = {}): Connector {
  return (baseUrl) => ({ transport: createConnectTransport({ useBinaryFormat: true, ...options, baseUrl }) });
}

/** Speaks gRPC-Web, for what is between the page and the nodes and understands nothing else. */
export function grpcWeb(options: Omit<WebOptions, "useHttpGet"> = {}): Connector {
  return (baseUrl) => ({ transport: createGrpcWebTransport({ useBinaryFormat: true, ...options, baseUrl }) });
}
