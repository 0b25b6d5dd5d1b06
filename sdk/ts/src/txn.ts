import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { InvalidError } from "./errors.js";
import type { ResponseHeader } from "./gen/raftkv/v1/header_pb.js";
import { TxnRequestSchema, type CompareSchema, type TxnOperationSchema, type TxnResponse, type TxnResult as TxnResultMessage } from "./gen/raftkv/v1/txn_pb.js";
import { bytesOf, itemOf, type Item, type Value } from "./item.js";
import type { Operation } from "./operation.js";
import { checkKey, deleteResult, lifeOf, putResult, where, type DeleteOperation, type DeleteResult, type PutOperation, type PutResult } from "./write.js";

/** What must hold of a key: exactly one of the three. */
export type Compare = { key: string } & (
  | { exists: boolean }
  /** The last write of the key made this revision; 0 says that the key does not exist. */
  | { revision: bigint }
  /** The key exists and has this value. */
  | { value: Value }
);

/** One operation of a transaction; `previous` also returns the item as it was before. */
export type TxnOperation = { get: string } | (PutOperation & { previous?: boolean }) | (DeleteOperation & { previous?: boolean });

/**
 * A transaction: if all compares hold, `then` is done, else `else` is, atomically and under one revision. All keys must live on one shard, which keys with
 * the same `{tag}` do; otherwise the error is a `CrossShardError`. Each branch may touch a key once; it has at most 128 operations.
 */
export interface Txn {
  if?: readonly Compare[];
  then?: readonly TxnOperation[];
  else?: readonly TxnOperation[];
}

/** What a get of a transaction found. */
export interface GetResult {
  /** Undefined if there is no such key. */
  readonly item: Item | undefined;
}

/** What a transaction did. */
export interface TxnResult {
  /** The revision that the transaction made, or the current one if it changed nothing. What it read is of this revision. */
  readonly revision: bigint;
  readonly shard: number;
  /** All compares held, and `then` was done. */
  readonly succeeded: boolean;
  /** The first compare that did not hold: its index, and the revision of the last write of its key, 0 if that did not exist. */
  readonly failed?: { readonly index: number; readonly current: bigint } | undefined;
  /** Those of the operations that were done, in their order. */
  readonly results: readonly (GetResult | PutResult | DeleteResult)[];
  /** Values of items beyond 4 MiB in total were left out, from the first that did not fit. */
  readonly valuesOmitted: boolean;
}

/** The operation of a transaction. */
export function txnOperation(t: Txn): Operation & { case: "txn" } {
  const compare = (t.if ?? []).map(compareOf);
  const then = (t.then ?? []).map(operationOf);
  if (compare.length + then.length === 0) {
    throw new InvalidError("a transaction needs something in if or then");
  }
  return { case: "txn", value: create(TxnRequestSchema, { compare, then, else: (t.else ?? []).map(operationOf) }) };
}

/** The key under whose slot the cluster keeps the answer. */
export function txnKey(t: Txn): string {
  const first = t.then?.[0];
  if (first === undefined) {
    return t.if?.[0]?.key ?? "";
  }
  return "get" in first ? first.get : "put" in first ? first.put : first.delete;
}

function compareOf(c: Compare): MessageInitShape<typeof CompareSchema> {
  checkKey(c.key);
  if ("exists" in c) {
    return { key: c.key, condition: { case: "exists", value: c.exists } };
  }
  if ("revision" in c) {
    return { key: c.key, condition: { case: "modRevision", value: c.revision } };
  }
  return { key: c.key, condition: { case: "value", value: bytesOf(c.value) } };
}

function operationOf(o: TxnOperation): MessageInitShape<typeof TxnOperationSchema> {
  if ("get" in o) {
    checkKey(o.get);
    return { operation: { case: "get", value: { key: o.get } } };
  }
  const prevKv = o.previous ?? false;
  if ("put" in o) {
    checkKey(o.put);
    return { operation: { case: "put", value: { key: o.put, value: bytesOf(o.value), prevKv, ...lifeOf(o) } } };
  }
  checkKey(o.delete);
  return { operation: { case: "delete", value: { key: o.delete, prevKv } } };
}

/** What a transaction did, by its response. */
export function txnResult(r: TxnResponse): TxnResult {
  return {
    ...where(r.header),
    succeeded: r.succeeded,
    failed: r.failed && { index: r.failed.index, current: r.failed.current },
    results: r.results.map((one) => resultOf(one, r.header)),
    valuesOmitted: r.valuesOmitted,
  };
}

function resultOf({ result }: TxnResultMessage, header: ResponseHeader | undefined): GetResult | PutResult | DeleteResult {
  switch (result.case) {
    case "put":
      return putResult(result.value, header);
    case "delete":
      return deleteResult(result.value, header);
    default:
      return { item: itemOf(result.value?.kv) };
  }
}
