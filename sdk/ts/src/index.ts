/**
 * A client of raftkv for browsers and Node.
 *
 * @packageDocumentation
 */
import { Client, type ClientOptions } from "./client.js";
import { connectWeb } from "./web.js";

export * from "./api.js";

/**
 * Makes a client of a cluster. It connects with its first call.
 *
 * @example
 * ```ts
 * const client = createClient({ endpoints: ["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082"] });
 * await client.put("greeting", "hello");
 * console.log((await client.get("greeting"))?.text());
 * client.close();
 * ```
 */
export function createClient(options: ClientOptions): Client {
  return new Client(options, connectWeb());
}
