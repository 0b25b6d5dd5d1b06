import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { AnySchema, anyPack } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Condition } from "../gen/raftkv/v1/condition_pb.js";
import { KeyNotFoundSchema, PreconditionFailedSchema } from "../gen/raftkv/v1/error_pb.js";
import { StatusSchema } from "../gen/google/rpc/status_pb.js";
import type { KeyValue } from "../gen/raftkv/v1/key_value_pb.js";
import * as pb from "../gen/raftkv/v1/kv_service_pb.js";
import { Outcome, type GetOutcomeRequest, type GetOutcomeResponseSchema } from "../gen/raftkv/v1/outcome_pb.js";
import type { Compare, TxnOperation, TxnRequest, TxnResponseSchema, TxnResultSchema } from "../gen/raftkv/v1/txn_pb.js";
import { header } from "./header.js";
import { refuse } from "./refuse.js";
import { shard, type Store, type Write } from "./store.js";

const encoder = new TextEncoder();
const same = (a: Uint8Array, b: Uint8Array) => a.length === b.length && a.every((byte, i) => byte === b[i]);

/** The methods of `KvService` on a store. */
export class Kv {
  constructor(readonly store: Store) {}

  get({ key, revision }: pb.GetRequest): MessageInitShape<typeof pb.GetResponseSchema> {
    const kv = this.store.read(key, revision || undefined);
    if (kv === undefined) {
      throw refuse(Code.NotFound, KeyNotFoundSchema, { key, revision: this.store.revision, shard });
    }
    return { header: header(this.store), kv };
  }

  put(r: pb.PutRequest): MessageInitShape<typeof pb.PutResponseSchema> {
    checkKeys(r.key);
    return this.store.once(r.requestId, () => {
      this.#check(r.key, r.condition);
      const [{ before, after } = {}] = this.store.write([r]);
      return { header: header(this.store), createRevision: after?.createRevision, version: after?.version, prevKv: r.prevKv ? before : undefined };
    });
  }

  delete(r: pb.DeleteRequest): MessageInitShape<typeof pb.DeleteResponseSchema> {
    checkKeys(r.key);
    return this.store.once(r.requestId, () => {
      this.#check(r.key, r.condition);
      const [{ before } = {}] = this.store.write([{ key: r.key }]);
      return { header: header(this.store), deleted: before !== undefined, prevKv: r.prevKv ? before : undefined };
    });
  }

  batch(r: pb.BatchRequest): MessageInitShape<typeof pb.BatchResponseSchema> {
    const writes = r.operations.map(({ operation: { value } }): Write => value!);
    checkKeys(...writes.map((w) => w.key));
    return this.store.once(r.requestId, () => {
      const written = this.store.write(writes);
      const results = written.map(({ before, after }, i): MessageInitShape<typeof pb.BatchResultSchema> =>
        writes[i]!.value === undefined
          ? { result: { case: "delete", value: { deleted: before !== undefined } } }
          : { result: { case: "put", value: { createRevision: after?.createRevision, version: after?.version } } },
      );
      return { header: header(this.store), results };
    });
  }

  txn(r: TxnRequest): MessageInitShape<typeof TxnResponseSchema> {
    return this.store.once(r.requestId, () => {
      const index = r.compare.findIndex((c) => !this.#holds(c));
      const operations = index < 0 ? r.then : r.else;
      const writes = operations.filter(({ operation: o }) => o.case !== "get").map(({ operation: { value } }): Write => value!);
      const written = this.store.write(writes);
      const failed = index < 0 ? undefined : { index, current: this.store.read(r.compare[index]!.key)?.modRevision ?? 0n };
      return { header: header(this.store), succeeded: index < 0, failed, results: operations.map((o) => this.#txnResult(o, writes, written)) };
    });
  }

  #txnResult({ operation: o }: TxnOperation, writes: Write[], written: { before?: KeyValue; after?: KeyValue }[]): MessageInitShape<typeof TxnResultSchema> {
    if (o.case === "get" || o.case === undefined) {
      return { result: { case: "get", value: { kv: o.value && this.store.read(o.value.key) } } };
    }
    const { before, after } = written[writes.indexOf(o.value)]!;
    const prevKv = o.value.prevKv ? before : undefined;
    return o.case === "put"
      ? { result: { case: "put", value: { createRevision: after?.createRevision, version: after?.version, prevKv } } }
      : { result: { case: "delete", value: { deleted: before !== undefined, prevKv } } };
  }

  list(r: pb.ListRequest): MessageInitShape<typeof pb.ListResponseSchema> {
    const inside = this.store.keys().filter((key) => isIn(key, r));
    const ordered = r.reverse ? inside.reverse() : inside;
    const from = r.pageToken === "" ? 0 : ordered.indexOf(r.pageToken);
    const limit = r.limit || 100;
    const kvs = ordered.slice(from, from + limit).map((key) => {
      const kv = this.store.read(key)!;
      return r.keysOnly ? { ...kv, value: new Uint8Array() } : kv;
    });
    return { header: header(this.store), kvs, nextPageToken: ordered[from + limit] ?? "" };
  }

  getOutcome({ requestId }: GetOutcomeRequest): MessageInitShape<typeof GetOutcomeResponseSchema> {
    const result = this.store.fence(requestId!);
    const at = { header: header(this.store), revision: this.store.revision };
    if (result === undefined) {
      return { ...at, outcome: Outcome.NOT_APPLIED };
    }
    try {
      const { header: h, succeeded = true } = result() as { header: { revision: bigint }; succeeded?: boolean };
      return { ...at, revision: h.revision, outcome: succeeded ? Outcome.APPLIED : Outcome.CONDITION_FAILED };
    } catch (error) {
      const [failed] = error instanceof ConnectError ? error.findDetails(PreconditionFailedSchema) : [];
      return failed ? { ...at, outcome: Outcome.CONDITION_FAILED, failed: { current: failed.current } } : { ...at, outcome: Outcome.NOT_APPLIED };
    }
  }

  /** One operation of `Exec`. */
  execute({ id, operation: o }: pb.ExecOperation): MessageInitShape<typeof pb.ExecResultSchema> {
    try {
      switch (o.case) {
        case "get":
          return { id, result: { case: o.case, value: this.get(o.value) } };
        case "put":
          return { id, result: { case: o.case, value: this.put(o.value) } };
        case "delete":
          return { id, result: { case: o.case, value: this.delete(o.value) } };
        case "batch":
          return { id, result: { case: o.case, value: this.batch(o.value) } };
        case "txn":
          return { id, result: { case: o.case, value: this.txn(o.value) } };
        default:
          throw new ConnectError("operation is missing", Code.InvalidArgument);
      }
    } catch (error) {
      return { id, result: { case: "error", value: statusOf(ConnectError.from(error)) } };
    }
  }

  #check(key: string, condition: Condition | undefined): void {
    const current = this.store.read(key)?.modRevision ?? 0n;
    const { case: kind, value } = condition?.condition ?? {};
    if (!(kind === undefined || (kind === "exists" ? value === current > 0n : value === current))) {
      throw refuse(Code.FailedPrecondition, PreconditionFailedSchema, { key, current, revision: this.store.revision, shard });
    }
  }

  #holds({ key, condition: c }: Compare): boolean {
    const kv = this.store.read(key);
    switch (c.case) {
      case "exists":
        return c.value === (kv !== undefined);
      case "modRevision":
        return c.value === (kv?.modRevision ?? 0n);
      default:
        return kv !== undefined && c.value !== undefined && same(kv.value, c.value);
    }
  }
}

/** Whether a key is in the range of a request. */
export function isIn(key: string, r: { prefix: string; start: string; end: string }): boolean {
  return key.startsWith(r.prefix) && key >= r.start && (r.end === "" || key < r.end);
}

function checkKeys(...keys: string[]): void {
  const wrong = keys.find((key) => key === "" || encoder.encode(key).length > 4096);
  if (wrong !== undefined || new Set(keys).size < keys.length) {
    throw new ConnectError("keys have 1 to 4,096 bytes, and a batch has each once", Code.InvalidArgument);
  }
}

export function statusOf(error: ConnectError): MessageInitShape<typeof StatusSchema> {
  const details = error.details.map((d) => ("desc" in d ? anyPack(d.desc, create(d.desc, d.value)) : create(AnySchema, { typeUrl: `type.googleapis.com/${d.type}`, value: d.value })));
  return { code: error.code, message: error.rawMessage, details };
}
