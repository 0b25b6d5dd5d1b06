// What Node gets for the package: index.ts with another default. Its types are those of index.ts.
import { Client, type ClientOptions } from "./client.js";
import { connectNode } from "./node.js";

export * from "./api.js";

export function createClient(options: ClientOptions): Client {
  return new Client(options, connectNode());
}
