import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { InvalidError } from "./errors.js";
import type { ConditionSchema } from "./gen/raftkv/v1/condition_pb.js";
import type { ResponseHeader } from "./gen/raftkv/v1/header_pb.js";
import type { KeyValue } from "./gen/raftkv/v1/key_value_pb.js";
import { BatchRequestSchema, DeleteRequestSchema, PutRequestSchema, type BatchOperationSchema } from "./gen/raftkv/v1/kv_service_pb.js";
import type { CallOptions } from "./call.js";
import { bytesOf, itemOf, type Item, type Value } from "./item.js";
import type { Operation } from "./operation.js";

/** How long a key lives: for ever unless one of these says otherwise. A later put replaces it, also by for ever. */
export interface Life {
  /** In milliseconds, at least 1. The key may live some seconds longer, and never less. */
  ttlMs?: number | undefined;
  /** The lease on which the key hangs: when that ends, the key goes. */
  lease?: { readonly id: bigint } | undefined;
}

/** What must hold of a key, or a write of it is refused with a `PreconditionFailedError`. At most one of them. */
export interface Condition {
  /** The key exists (true), or does not (false). */
  ifExists?: boolean | undefined;
  /** The last write of the key made this revision; 0 says that the key does not exist. */
  ifRevision?: bigint | undefined;
}

/** Options of a delete. */
export interface DeleteOptions extends CallOptions, Condition {
  /** Return the item as it was before. */
  previous?: boolean | undefined;
}

/** Options of a put. */
export interface PutOptions extends DeleteOptions, Life {}

/** What a write did. */
export interface WriteResult {
  /** The revision that the write made, or the current one if it changed nothing. */
  readonly revision: bigint;
  readonly shard: number;
  /** The item as it was before, if that was asked for and it existed. */
  readonly previous?: Item | undefined;
}

/** What a put did. */
export interface PutResult extends WriteResult {
  /** The revision at which the key came into being. */
  readonly createRevision: bigint;
  /** How often the key has been written since then; 1 for a new key. */
  readonly version: bigint;
}

/** What a delete did. */
export interface DeleteResult extends WriteResult {
  /** Whether there was a key to delete. */
  readonly deleted: boolean;
}

/** Writes `value` at the key `put`. */
export interface PutOperation extends Life {
  put: string;
  value: Value;
}

/** Removes the key `delete`. */
export interface DeleteOperation {
  delete: string;
}

/** One write of a batch. */
export type BatchOperation = PutOperation | DeleteOperation;

/** What a batch did: its operations in their order, all under one revision. */
export interface BatchResult {
  readonly revision: bigint;
  readonly shard: number;
  readonly results: readonly (PutResult | DeleteResult)[];
}

/** The operation of a put. */
export function putOperation(key: string, value: Value, o: PutOptions): Operation & { case: "put" } {
  checkKey(key);
  const init = { key, value: bytesOf(value), condition: conditionOf(o), prevKv: o.previous ?? false, ...lifeOf(o) };
  return { case: "put", value: create(PutRequestSchema, init) };
}

/** The operation of a delete. */
export function deleteOperation(key: string, o: DeleteOptions): Operation & { case: "delete" } {
  checkKey(key);
  return { case: "delete", value: create(DeleteRequestSchema, { key, condition: conditionOf(o), prevKv: o.previous ?? false }) };
}

/** The operation of an atomic batch. */
export function batchOperation(writes: readonly BatchOperation[]): Operation & { case: "batch" } {
  if (writes.length === 0) {
    throw new InvalidError("a batch needs an operation");
  }
  const operations = writes.map((w): MessageInitShape<typeof BatchOperationSchema> => {
    checkKey("put" in w ? w.put : w.delete);
    return "put" in w
      ? { operation: { case: "put", value: { key: w.put, value: bytesOf(w.value), ...lifeOf(w) } } }
      : { operation: { case: "delete", value: { key: w.delete } } };
  });
  return { case: "batch", value: create(BatchRequestSchema, { operations }) };
}

/** The fields of a message that say how long a key lives. */
export function lifeOf(life: Life): { ttlMs: bigint; leaseId: bigint } {
  return { ttlMs: life.ttlMs === undefined ? 0n : millis("ttlMs", life.ttlMs, 1), leaseId: life.lease?.id ?? 0n };
}

function conditionOf({ ifExists, ifRevision }: Condition): MessageInitShape<typeof ConditionSchema> | undefined {
  if (ifExists !== undefined && ifRevision !== undefined) {
    throw new InvalidError("ifExists does not go with ifRevision");
  }
  if (ifExists !== undefined) {
    return { condition: { case: "exists", value: ifExists } };
  }
  return ifRevision === undefined ? undefined : { condition: { case: "modRevision", value: ifRevision } };
}

/** Whole milliseconds, rounded up. */
export function millis(field: string, ms: number, least = 0): bigint {
  if (!(ms >= least && ms <= Number.MAX_SAFE_INTEGER)) {
    throw new InvalidError(`${field} is ${ms}; it is a number of milliseconds, at least ${least}`);
  }
  return BigInt(Math.ceil(ms));
}

/** Refuses the keys that have no form on the wire, or would be taken for no key at all. The nodes check the rest. */
export function checkKey(key: string): void {
  if (key === "" || !key.isWellFormed()) {
    throw new InvalidError("a key is a string that is not empty and has no half of a surrogate pair");
  }
}

/** The result of a put. A batch has one header for all. */
export function putResult(p: { createRevision: bigint; version: bigint; prevKv?: KeyValue }, header: ResponseHeader | undefined): PutResult {
  return { ...where(header), createRevision: p.createRevision, version: p.version, previous: itemOf(p.prevKv) };
}

/** The result of a delete. */
export function deleteResult(d: { deleted: boolean; prevKv?: KeyValue }, header: ResponseHeader | undefined): DeleteResult {
  return { ...where(header), deleted: d.deleted, previous: itemOf(d.prevKv) };
}

/** Where a write stands in the history. */
export function where(header: ResponseHeader | undefined): { revision: bigint; shard: number } {
  return { revision: header?.revision ?? 0n, shard: header?.shard ?? 0 };
}
