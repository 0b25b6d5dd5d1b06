/**
 * Connections of Node.
 *
 * @module
 */
import type { Interceptor } from "@connectrpc/connect";
import {
  Http2SessionManager,
  compressionGzip,
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import type { SecureClientSessionOptions } from "node:http2";
import type { RequestOptions } from "node:https";
import type { Connector } from "./connection.js";

export type { Connection, Connector } from "./connection.js";

/** How the nodes are reached. */
export interface NodeOptions {
  /** The protocol; `connect` by default. gRPC takes HTTP/2. */
  protocol?: "connect" | "grpc" | "grpc-web" | undefined;
  /**
   * The version of HTTP; `2` by default, also without TLS, and then concurrent calls share streams. With `1.1`, which every proxy understands, concurrent writes share
   * requests.
   */
  httpVersion?: "2" | "1.1" | undefined;
  /** Options of TLS, for endpoints with https: `ca`, `cert`, `key` and so on. */
  tls?: Pick<SecureClientSessionOptions & RequestOptions, "ca" | "cert" | "key" | "passphrase" | "servername" | "rejectUnauthorized"> | undefined;
  /** Compress what has 1 KiB and more, both ways. Off by default: in one data centre the processor is scarcer than the network. */
  gzip?: boolean | undefined;
  /** See Connect. */
  interceptors?: Interceptor[] | undefined;
}

/**
 * A node that is silent for so long is pinged while calls are under way, and before the next call on an idle connection. The connection is given up when as long passes
 * without an answer. (Pings on idle connections go on after `Http2SessionManager.abort`, and throw where nobody catches.)
 */
const pingMs = 2000;

/** Connects from Node, as options say. */
export function connectNode(o: NodeOptions = {}): Connector {
  const { protocol = "connect", httpVersion = "2" } = o;
  if (protocol === "grpc" && httpVersion === "1.1") {
    throw new TypeError("gRPC takes HTTP/2; use connect or grpc-web over HTTP/1.1");
  }
  const create = { connect: createConnectTransport, grpc: createGrpcTransport, "grpc-web": createGrpcWebTransport }[protocol];
  return (baseUrl) => {
    const common = {
      baseUrl,
      interceptors: o.interceptors ?? [],
      acceptCompression: o.gzip ? [compressionGzip] : [],
      ...(o.gzip ? { sendCompression: compressionGzip } : {}),
    };
    if (httpVersion === "1.1") {
      return { transport: create({ ...common, httpVersion, nodeOptions: { ...o.tls } }) };
    }
    const sessionManager = new Http2SessionManager(baseUrl, { pingIntervalMs: pingMs, pingTimeoutMs: pingMs }, { ...o.tls });
    return { transport: create({ ...common, httpVersion, sessionManager }), duplex: true, close: () => sessionManager.abort() };
  };
}
