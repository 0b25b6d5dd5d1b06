import { createClient, type Client } from "@connectrpc/connect";
import type { Connection, Connector } from "./connection.js";
import { KvService } from "./gen/raftkv/v1/kv_service_pb.js";
import { LeaseService } from "./gen/raftkv/v1/lease_service_pb.js";
import { WatchService } from "./gen/raftkv/v1/watch_service_pb.js";
import { Health } from "./health.js";
import { Lane, bytesMax } from "./lane.js";
import { callAlone, sizeOf, type Bounds, type Operation, type Response } from "./operation.js";

/** One node and the ways to it. */
export class Endpoint {
  readonly health = new Health();
  readonly kv: Client<typeof KvService>;
  readonly lease: Client<typeof LeaseService>;
  readonly watch: Client<typeof WatchService>;
  readonly #connection: Connection;
  /** Reads have a lane of their own, so that they do not wait for the disk behind writes. */
  readonly #lanes?: { reads: Lane; writes: Lane };

  constructor(
    readonly baseUrl: string,
    connect: Connector,
  ) {
    this.#connection = connect(baseUrl);
    const { transport, duplex } = this.#connection;
    this.kv = createClient(KvService, transport);
    this.lease = createClient(LeaseService, transport);
    this.watch = createClient(WatchService, transport);
    if (duplex) {
      this.#lanes = { reads: new Lane(this.kv), writes: new Lane(this.kv) };
    }
  }

  /** Whether concurrent operations share messages by themselves. */
  get duplex(): boolean {
    return this.#lanes !== undefined;
  }

  execute(o: Operation, bounds: Bounds): Promise<Response> {
    // A message that is too large for the node would end a stream for all that is on it.
    if (this.#lanes === undefined || sizeOf(o) > bytesMax) {
      return callAlone(this.kv, o, bounds);
    }
    return this.#lanes[o.case === "get" ? "reads" : "writes"].run(o, bounds);
  }

  close(reason: unknown): void {
    this.#lanes?.reads.close(reason);
    this.#lanes?.writes.close(reason);
    this.#connection.close?.();
  }
}

/** The nodes of the cluster, which take turns. Any node serves any key: it forwards what it does not lead. */
export class Endpoints {
  readonly all: readonly Endpoint[];
  #turn: number;

  constructor(baseUrls: readonly string[], connect: Connector) {
    this.all = baseUrls.map((url) => new Endpoint(url, connect));
    this.#turn = Math.floor(Math.random() * this.all.length); // or all clients would begin at the same
  }

  /** The next endpoint whose turn it is and that is not passed over; if all are, the one whose time ends first. `not` is taken if there is no other. */
  next(not?: Endpoint): Endpoint {
    const order = this.all.map((_, i) => this.all[(this.#turn + i) % this.all.length]!);
    const others = order.filter((e) => e !== not);
    const candidates = others.length > 0 ? others : order;
    const best = candidates.reduce((a, b) => (b.health.leftMs < a.health.leftMs ? b : a));
    this.#turn = (this.all.indexOf(best) + 1) % this.all.length;
    return best;
  }

  /** The endpoint at an address of a node, host:port, if it is one of those that the client was given. */
  at(address: string): Endpoint | undefined {
    return this.all.find((e) => new URL(e.baseUrl).host === address);
  }
}

/** The base URLs of endpoints, which are `host:port` or URLs. */
export function baseUrls(endpoints: readonly string[]): string[] {
  if (endpoints.length === 0) {
    throw new TypeError("no endpoints: give the address of one node at least, as host:port or URL");
  }
  return endpoints.map((endpoint) => {
    const text = endpoint.includes("://") ? endpoint : `http://${endpoint}`;
    const url = URL.canParse(text) ? new URL(text) : undefined;
    if (url === undefined || !["http:", "https:"].includes(url.protocol) || url.search !== "" || url.hash !== "") {
      throw new TypeError(`endpoint ${JSON.stringify(endpoint)}: must be host:port, or a URL with http or https`);
    }
    return url.href.replace(/\/+$/, "");
  });
}
