/**
 * A cluster in memory for tests: the client is the real one, and speaks the real protocol with it. It has one shard, no disk, and a clock that only tests move.
 *
 * @module
 */
import { createRouterTransport } from "@connectrpc/connect";
import { Client, type ClientOptions } from "../client.js";
import type { Connector } from "../connection.js";
import { Kv } from "./kv.js";
import { services, type Faults } from "./services.js";
import { Store } from "./store.js";

export type { Fault, Faults, TestCall } from "./services.js";

/** Options of a cluster in memory. */
export interface TestClusterOptions {
  /** Carry operations on streams, as Node does over HTTP/2, which is the default; or in requests, as browsers do. */
  duplex?: boolean | undefined;
}

/** A cluster in memory. */
export class TestCluster {
  /** What goes wrong from now on; nothing unless a test says so. It is asked before each call, and before each response of a watch (`event`). */
  faults: Faults | undefined;
  /** How clients reach it, for code that makes its own client. */
  readonly connect: Connector;
  readonly #store = new Store();

  constructor({ duplex = true }: TestClusterOptions = {}) {
    const host = { store: this.#store, kv: new Kv(this.#store) };
    this.connect = (baseUrl) => {
      const cluster = this;
      const node = { ...host, get faults() { return cluster.faults; } };
      return { transport: createRouterTransport(services(node, baseUrl)), duplex };
    };
  }

  /** A client of the cluster, which by default has three nodes. */
  client(options: Partial<Omit<ClientOptions, "connect">> = {}): Client {
    return new Client({ endpoints: ["node1", "node2", "node3"], ...options }, this.connect);
  }

  /** Moves the clock, by which keys and leases end. Clients have their own. */
  advance(ms: number): void {
    this.#store.advance(ms);
  }

  /** Forgets the history before a revision. */
  compact(revision: bigint): void {
    this.#store.floor = revision;
  }

  /** The revision of its shard. */
  get revision(): bigint {
    return this.#store.revision;
  }
}

/** Makes a client of a new cluster in memory. */
export function createTestClient(options: TestClusterOptions = {}): Client {
  return new TestCluster(options).client();
}
