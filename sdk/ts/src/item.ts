import type { ResponseHeader } from "./gen/raftkv/v1/header_pb.js";
import type { KeyValue } from "./gen/raftkv/v1/key_value_pb.js";

/** What can be written: bytes, or a string, of which the UTF-8 is written. {@link json} makes bytes of anything else. */
export type Value = Uint8Array | string;

/** The JSON text of a value, as bytes to write. */
export function json(value: unknown): Uint8Array {
  const text = JSON.stringify(value) as string | undefined;
  if (text === undefined) {
    throw new TypeError("this value has no JSON form");
  }
  return new TextEncoder().encode(text);
}

/** The bytes of a value, which nobody else holds. */
export function bytesOf(value: Value): Uint8Array {
  return typeof value === "string" ? new TextEncoder().encode(value) : value.slice();
}

/** A key, its value and where the pair stands in the history of its shard. */
export class Item {
  readonly key: string;
  readonly value: Uint8Array;
  /** The revision at which the key came into being. Revisions compare for one key and for keys of one `{tag}` only. */
  readonly createRevision: bigint;
  /** The revision of the last write. */
  readonly modRevision: bigint;
  /** How often the key was written since it came into being. */
  readonly version: bigint;
  /** What is left of the time to live of the key, in milliseconds, as the answering node knows; 0 if it lives for ever or hangs on a lease. */
  readonly ttlMs: number;
  /** The lease on which the key hangs; 0 for none. */
  readonly leaseId: bigint;
  /** How old the state may be that a read shows, in milliseconds: 0 unless the read allows for that, undefined if it is not known. */
  readonly ageMs: number | undefined;

  /** @internal */
  constructor(kv: KeyValue, header?: ResponseHeader) {
    this.key = kv.key;
    this.value = kv.value;
    this.createRevision = kv.createRevision;
    this.modRevision = kv.modRevision;
    this.version = kv.version;
    this.ttlMs = Number(kv.ttlRemainingMs);
    this.leaseId = kv.leaseId;
    this.ageMs = header?.freshnessUnknown ? undefined : Number(header?.freshnessMs ?? 0n);
  }

  /** The value as a string; throws a `TypeError` if it is not UTF-8. */
  text(): string {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.value);
  }

  /** The value parsed as JSON; throws if it is not. What its type says is the caller's word: nothing checks it. */
  json<T = unknown>(): T {
    return JSON.parse(this.text()) as T;
  }
}

/** The item of a message, if there is one. */
export function itemOf(kv: KeyValue | undefined, header?: ResponseHeader): Item | undefined {
  return kv && new Item(kv, header);
}
