import { create } from "@bufbuild/protobuf";
import { Call, type CallOptions } from "./call.js";
import { Coalescer } from "./coalesce.js";
import type { Connector } from "./connection.js";
import { Endpoints, baseUrls, type Endpoint } from "./endpoint.js";
import { ClosedError, KeyNotFoundError, type OutcomeUnknownError } from "./errors.js";
import { GetRequestSchema } from "./gen/raftkv/v1/kv_service_pb.js";
import { Item, bytesOf, type Value } from "./item.js";
import { grant, resume, type Lease, type LeaseContext, type LeaseOptions } from "./lease.js";
import { mixedUp, type Bounds, type Operation, type Response } from "./operation.js";
import { consistencyOf, listRequest, pageOf, scan, type ListOptions, type Page, type Range, type ReadOptions, type ScanOptions } from "./range.js";
import { resolve, type Outcome } from "./resolve.js";
import { Seen } from "./seen.js";
import { Sessions } from "./session.js";
import { txnKey, txnOperation, txnResult, type Txn, type TxnResult } from "./txn.js";
import { Watcher, type Watchable, type WatchEvent, type WatchOptions } from "./watch.js";
import * as writes from "./write.js";
import type { BatchOperation, BatchResult, DeleteOptions, DeleteResult, PutOptions, PutResult } from "./write.js";

/** Options of a client. */
export interface ClientOptions {
  /** Nodes of the cluster, as `host:port` or URLs; they take turns. A page gives those that its browser reaches. */
  endpoints: readonly string[];
  /** How long a call goes on trying, in milliseconds; 10,000 by default. */
  timeoutMs?: number | undefined;
  /** How the client reaches a node. The default is Connect over HTTP/2 in Node, and over `fetch` elsewhere. */
  connect?: Connector | undefined;
}

/** Options of a get. */
export interface GetOptions extends ReadOptions {
  /** Read the key as it was at a revision of its shard, as far back as history reaches. Not with `stale`. */
  revision?: bigint | undefined;
}

/**
 * A client of one cluster. Calls may be concurrent, and then share messages. Every write carries an identity under which the cluster applies it at most once, and is
 * retried under that alone. An error that is no `OutcomeUnknownError` says that nothing was applied.
 */
export class Client {
  readonly #context: LeaseContext;
  readonly #seen = new Seen();
  readonly #closed = new AbortController();
  readonly #coalescer: Coalescer | undefined;

  /** @internal Use `createClient`. */
  constructor(options: ClientOptions, connect: Connector) {
    const timeoutMs = options.timeoutMs ?? 10_000;
    if (!(timeoutMs > 0)) {
      throw new TypeError(`timeoutMs must be more than 0, it is ${timeoutMs}`);
    }
    const endpoints = new Endpoints(baseUrls(options.endpoints), options.connect ?? connect);
    this.#context = { endpoints, timeoutMs, closed: this.#closed.signal, sessions: new Sessions() };
    if (!endpoints.all.every((e) => e.duplex)) {
      this.#coalescer = new Coalescer({ batch: (all) => this.batch(all), alone: (one) => ("put" in one ? this.#put(one.put, one.value, one) : this.#delete(one.delete, {})) });
    }
  }

  /** Returns the item at `key`, or undefined if there is none. It sees every write that was answered before it began, unless `stale` allows for less. */
  async get(key: string, o: GetOptions = {}): Promise<Item | undefined> {
    writes.checkKey(key);
    const request = create(GetRequestSchema, { key, revision: o.revision ?? 0n, ...consistencyOf(o.stale) });
    try {
      const { value } = await this.#execute("get", key, { case: "get", value: request }, o);
      return new Item(value.kv!, value.header);
    } catch (error) {
      if (error instanceof KeyNotFoundError) {
        return undefined;
      }
      throw error;
    }
  }

  /** Writes `value` at `key`, under the condition and for the time that options say. */
  async put(key: string, value: Value, o: PutOptions = {}): Promise<PutResult> {
    if (this.#coalescer && mayShare(o)) {
      writes.checkKey(key);
      return this.#coalescer.write({ put: key, value: bytesOf(value), ttlMs: o.ttlMs, lease: o.lease }) as Promise<PutResult>;
    }
    return this.#put(key, value, o);
  }

  async #put(key: string, value: Value, o: PutOptions): Promise<PutResult> {
    const response = await this.#execute("put", key, writes.putOperation(key, value, o), o);
    return writes.putResult(response.value, response.value.header);
  }

  /** Removes `key`, under the condition that options say. Without one, deleting a key that does not exist succeeds and changes nothing. */
  async delete(key: string, o: DeleteOptions = {}): Promise<DeleteResult> {
    if (this.#coalescer && mayShare(o)) {
      writes.checkKey(key);
      return this.#coalescer.write({ delete: key }) as Promise<DeleteResult>;
    }
    return this.#delete(key, o);
  }

  async #delete(key: string, o: DeleteOptions): Promise<DeleteResult> {
    const response = await this.#execute("delete", key, writes.deleteOperation(key, o), o);
    return writes.deleteResult(response.value, response.value.header);
  }

  /**
   * Applies writes all together or not at all, under one revision. Their keys must live on one shard, which keys with the same `{tag}` do; otherwise the error is a
   * `CrossShardError`.
   */
  async batch(operations: readonly BatchOperation[], o: CallOptions = {}): Promise<BatchResult> {
    const operation = writes.batchOperation(operations);
    const [first] = operations;
    const key = "put" in first! ? first.put : first!.delete;
    const { value } = await this.#execute(`batch of ${operations.length} from`, key, operation, o);
    const results = value.results.map(({ result }) => {
      switch (result.case) {
        case "put":
          return writes.putResult(result.value, value.header);
        case "delete":
          return writes.deleteResult(result.value, value.header);
        default:
          throw mixedUp();
      }
    });
    return { ...writes.where(value.header), results };
  }

  /** Executes a transaction. That a compare does not hold is no error. */
  async txn(txn: Txn, o: CallOptions = {}): Promise<TxnResult> {
    const operation = txnOperation(txn);
    return txnResult((await this.#execute("txn on", txnKey(txn), operation, o)).value);
  }

  /**
   * Returns the items of a range in the order of their keys' bytes. It reads page by page: each is linearizable, the whole is not one snapshot. A page that fails is
   * retried. The timeout holds for each page. The loop may be left at any time: nothing stays open between pages.
   */
  scan(range: Range, o: ScanOptions = {}): AsyncGenerator<Item, void, undefined> {
    return scan(o, (page) => this.list(range, page));
  }

  /** Returns one page of a range. It may hold fewer items than `limit` although others follow. */
  async list(range: Range, o: ListOptions = {}): Promise<Page> {
    const request = listRequest(range, o);
    return pageOf(await new Call(this.#context, "list", o).run((e, bounds) => e.kv.list(request, bounds)));
  }

  /**
   * Tells every change of a key or range, from now on unless an option says otherwise, without a gap and nothing twice. It is served by any node; if that fails, the watch
   * goes on at another, where it was. What the loop has not come to waits at the node, in the history: a slow loop costs no memory, but may find its history
   * gone. That is a `CompactedError`: begin again with `initial`, or from its `oldest` if a gap does no harm.
   */
  watch(what: Watchable, o: WatchOptions = {}): AsyncGenerator<WatchEvent, void, undefined> {
    return new Watcher(this.#context, what, o).run();
  }

  /** Begins a lease that lives for `ttlMs`, and keeps it alive. If the outcome is unknown a lease may be left behind, which ends by itself. */
  grant(ttlMs: number, o: LeaseOptions = {}): Promise<Lease> {
    return grant(this.#context, ttlMs, o);
  }

  /** Goes on with a lease that was granted before, by another process perhaps. If it has ended, the error is a `LeaseNotFoundError`. */
  resumeLease(id: bigint, o: LeaseOptions = {}): Promise<Lease> {
    return resume(this.#context, id, o);
  }

  /**
   * Finds out what came of a write that ended with an `OutcomeUnknownError`. The answer holds for good: after `not-applied` the write may safely be made again, by
   * another call. The client keeps the answer from being forgotten until it is resolved, or until 1,024 later writes.
   */
  resolve(error: OutcomeUnknownError, o: CallOptions = {}): Promise<Outcome> {
    return resolve(this.#context, error, o);
  }

  /** A token of all that the client has seen, for stale reads that must not be behind it, by whatever client; empty before the first answer. */
  token(): string {
    return this.#seen.token();
  }

  /** Ends all calls, watches and leases with a `ClosedError`, and closes the connections. Leases are not revoked. */
  close(): void {
    if (!this.#closed.signal.aborted) {
      this.#closed.abort(new ClosedError());
      this.#context.endpoints.all.forEach((e) => e.close(this.#closed.signal.reason));
    }
  }

  /** Executes an operation in as many attempts as it takes; a write under one identity. */
  async #execute<O extends Operation>(name: string, key: string, operation: O, o: CallOptions): Promise<Response & { case: O["case"] }> {
    const write: Operation = operation;
    const identity = write.case === "get" ? undefined : this.#context.sessions.begin({ case: "key", value: key });
    const call = new Call(this.#context, `${name} ${JSON.stringify(key)}`, o, identity);
    const attempt = async (endpoint: Endpoint, bounds: Bounds) => {
      if (write.case !== "get") {
        write.value.requestId = identity!.message();
      }
      const response = await endpoint.execute(operation, bounds);
      if (response.case !== operation.case) {
        throw mixedUp();
      }
      return response as Response & { case: O["case"] };
    };
    const response = await call.run(attempt, () => this.#seen.revision(key));
    this.#seen.heard(response.value.header, key);
    return response;
  }
}

/** Whether a write may be a part of a batch: that has neither conditions nor what was before, and it ends for all at once. */
function mayShare(o: PutOptions): boolean {
  return o.ifExists === undefined && o.ifRevision === undefined && !o.previous && o.signal === undefined && o.timeoutMs === undefined;
}
