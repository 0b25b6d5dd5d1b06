import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, type ConnectRouter, type HandlerContext } from "@connectrpc/connect";
import { NotLeaderSchema } from "../gen/raftkv/v1/error_pb.js";
import { KvService, type ExecRequest, type ExecResponseSchema } from "../gen/raftkv/v1/kv_service_pb.js";
import { LeaseService, type GrantRequest } from "../gen/raftkv/v1/lease_service_pb.js";
import { WatchService, type WatchRequest, type WatchResponseSchema } from "../gen/raftkv/v1/watch_service_pb.js";
import { header } from "./header.js";
import { isIn, statusOf, type Kv } from "./kv.js";
import { refuse } from "./refuse.js";
import { shard, type Store } from "./store.js";

/** A call that a node of the cluster in memory is about to execute. */
export interface TestCall {
  /** The name of the method, such as `put`; also of an operation that came on a stream. */
  readonly method: string;
  /** The base URL of the node. */
  readonly endpoint: string;
  /** The key of the call, or the first of several; empty if it has none. */
  readonly key: string;
}

/**
 * What goes wrong with a call:
 *
 * - `drop`: the connection is lost before the call is executed. The client cannot tell that from `lose`.
 * - `lose`: the call is executed, and the connection lost before its answer has come.
 * - `hang`: nothing comes until the client gives up, and the call is not executed.
 * - `not-leader`: the node refuses, since the shard has no leader.
 */
export type Fault = "drop" | "lose" | "hang" | "not-leader";

/** Decides what goes wrong. */
export type Faults = (call: TestCall) => Fault | undefined;

/** Where calls go wrong. */
export interface Host {
  readonly store: Store;
  readonly kv: Kv;
  faults: Faults | undefined;
}

const lost = () => new ConnectError("the connection was lost, by the test", Code.Unavailable);

/** The services of a node. */
export function services(host: Host, endpoint: string): (router: ConnectRouter) => void {
  const { store, kv } = host;
  /** Executes a call, unless something goes wrong. */
  async function execute<T>(method: string, key: string, signal: AbortSignal, action: () => T): Promise<T> {
    const fault = host.faults?.({ method, endpoint, key });
    if (fault === "hang") {
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
    }
    if (fault === "drop" || fault === "hang") {
      throw lost();
    }
    if (fault === "not-leader") {
      throw refuse(Code.Unavailable, NotLeaderSchema, { shard });
    }
    const result = action();
    if (fault === "lose") {
      throw lost();
    }
    return result;
  }

  async function* exec(requests: AsyncIterable<ExecRequest>, { signal }: HandlerContext): AsyncGenerator<MessageInitShape<typeof ExecResponseSchema>> {
    for await (const { operations } of requests) {
      const results = operations.map((o) =>
        execute(o.operation.case ?? "", firstKey(o.operation.value), signal, () => kv.execute(o)).catch((error: unknown) => {
          const refused = ConnectError.from(error);
          if (refused.findDetails(NotLeaderSchema).length === 0) {
            throw error;
          }
          return { id: o.id, result: { case: "error" as const, value: statusOf(refused) } };
        }),
      );
      yield { results: await Promise.all(results) };
    }
  }

  return (router) => {
    router.service(KvService, {
      get: (r, c) => execute("get", r.key, c.signal, () => kv.get(r)),
      put: (r, c) => execute("put", r.key, c.signal, () => kv.put(r)),
      delete: (r, c) => execute("delete", r.key, c.signal, () => kv.delete(r)),
      batch: (r, c) => execute("batch", firstKey(r), c.signal, () => kv.batch(r)),
      txn: (r, c) => execute("txn", firstKey(r), c.signal, () => kv.txn(r)),
      list: (r, c) => execute("list", r.prefix || r.start, c.signal, () => kv.list(r)),
      getOutcome: (r, c) => execute("getOutcome", r.subject.case === "key" ? r.subject.value : "", c.signal, () => kv.getOutcome(r)),
      exec,
    });
    router.service(WatchService, {
      async *watch(r, { signal }) {
        await execute("watch", r.key || r.prefix || r.start, signal, () => undefined);
        yield* watch(store, r, signal, () => {
          if (host.faults?.({ method: "event", endpoint, key: r.key || r.prefix || r.start }) !== undefined) {
            throw lost();
          }
        });
      },
    });
    router.service(LeaseService, {
      grant: (r, c) => execute("grant", "", c.signal, () => store.once(r.requestId, () => grant(store, r))),
      keepAlive: (r, c) => execute("keepAlive", "", c.signal, () => (store.keepAlive(r.id), { header: header(store), lease: leaseOf(store, r.id) })),
      revoke: (r, c) => execute("revoke", "", c.signal, () => store.once(r.requestId, () => (store.revoke(r.id), { header: header(store) }))),
    });
  };
}

function firstKey(value: unknown): string {
  const v = value as { key?: string; operations?: { operation: { value?: { key: string } } }[]; then?: { operation: { value?: { key: string } } }[] };
  return v.key ?? (v.operations ?? v.then)?.[0]?.operation.value?.key ?? "";
}

function grant(store: Store, { ttlMs, requestId }: GrantRequest) {
  const id = new DataView((requestId?.clientId ?? crypto.getRandomValues(new Uint8Array(16))).slice().buffer).getBigUint64(0) / 2n ** 12n + (requestId?.sequence ?? 0n) + 1n;
  store.grant(id, Number(ttlMs));
  return { header: header(store), lease: leaseOf(store, id) };
}

function leaseOf(store: Store, id: bigint) {
  return { id, ttlMs: BigInt(store.lease(id).ttlMs), remainingMs: BigInt(Math.ceil(store.remainingMs(id))) };
}

/** Tells changes; `before` is called before each response but the first. The token of a node is the revision that it is behind. */
async function* watch(store: Store, r: WatchRequest, signal: AbortSignal, before: () => void): AsyncGenerator<MessageInitShape<typeof WatchResponseSchema>> {
  const matches = (key: string) => (r.key === "" ? isIn(key, r) : key === r.key);
  let at = r.token !== "" ? BigInt(r.token) : r.revision > 0n ? r.revision - 1n : store.revision;
  store.eventsAfter(at); // or it is forgotten
  const where = () => ({ header: { ...header(store), revision: at }, token: String(at) });
  yield { ...where(), created: true, progress: [{ shard, revision: at, freshnessMs: 0n }] };
  if (r.includeInitial && r.token === "") {
    const kvs = store.keys().filter(matches).map((key) => store.read(key)!);
    yield { ...where(), events: kvs.map((kv) => ({ type: 1, kv, shard, revision: kv.modRevision, initial: true })), initialDone: true };
  }
  while (!signal.aborted) {
    const events = store.eventsAfter(at).filter((e) => matches(e.kv!.key) && !(e.type === 1 ? r.noPuts : r.noDeletes));
    at = store.revision;
    if (events.length > 0) {
      before();
      yield { ...where(), events: events.map((e) => ({ ...e, prevKv: r.prevKv ? e.prevKv : undefined })) };
    } else {
      await store.changed(signal);
    }
  }
}
