import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { CallOptions } from "./call.js";
import { Consistency } from "./gen/raftkv/v1/consistency_pb.js";
import { ListRequestSchema, type ListRequest, type ListResponse } from "./gen/raftkv/v1/kv_service_pb.js";
import { Item } from "./item.js";
import { millis } from "./write.js";

/** A range of keys: all that begin with `prefix`, or from `start` up to but not including `end`. Empty bounds are open, so `{}` is all keys. */
export type Range = { prefix: string; start?: never; end?: never } | { prefix?: never; start?: string | undefined; end?: string | undefined };

/**
 * A read of what a replica has, without asking the others, if that is new enough. One that is not asks a majority, or another is tried.
 */
export interface Stale {
  /** How old it may be, in milliseconds, up to a day; 0, the default, is any age. */
  maxAgeMs?: number | undefined;
  /** What it must show: the `token` of a page, or of a client, which may be another one. */
  token?: string | undefined;
}

/** Options of reads. */
export interface ReadOptions extends CallOptions {
  /** Be content with a state that may be a little old. The default is the newest, which asks a majority. */
  stale?: Stale | undefined;
}

/** Options of a scan. */
export interface ScanOptions extends ReadOptions {
  /** How many keys at most; no limit by default. */
  limit?: number | undefined;
  /** From the last key to the first. */
  reverse?: boolean | undefined;
  /** Leave the values out. */
  keysOnly?: boolean | undefined;
  /**
   * Read the range as it was at a revision of its shard, as far back as history reaches: a range within one whole `{tag}`, or any range of a cluster of one shard;
   * others are a `CrossShardError`. Not with `stale`.
   */
  revision?: bigint | undefined;
}

/** Options of one page. */
export interface ListOptions extends ScanOptions {
  /** The `next` of the page before. */
  pageToken?: string | undefined;
}

/** A part of a range. */
export interface Page {
  readonly items: readonly Item[];
  /** The token of the page that follows; empty after the last. */
  readonly next: string;
  /** What the page shows, for later stale reads. */
  readonly token: string;
}

/** How many keys a scan asks for at a time. */
const scanPage = 1000;

/** The request of a page. */
export function listRequest(range: Range, o: ListOptions): ListRequest {
  return create(ListRequestSchema, {
    ...boundsOf(range),
    ...consistencyOf(o.stale),
    limit: o.limit ?? 0,
    reverse: o.reverse ?? false,
    keysOnly: o.keysOnly ?? false,
    revision: o.revision ?? 0n,
    pageToken: o.pageToken ?? "",
  });
}

/** A page of its response. */
export function pageOf(r: ListResponse): Page {
  return { items: r.kvs.map((kv) => new Item(kv, r.header)), next: r.nextPageToken, token: r.header?.token ?? "" };
}

/** The items of all pages, one after the other. */
export async function* scan(o: ScanOptions, page: (o: ListOptions) => Promise<Page>): AsyncGenerator<Item, void, undefined> {
  let left = o.limit ?? Infinity;
  for (let pageToken = ""; left > 0; ) {
    const { items, next } = await page({ ...o, limit: Math.min(left, scanPage), pageToken });
    yield* items;
    left -= items.length;
    if (next === "") {
      return;
    }
    pageToken = next;
  }
}

/** The fields of a message for a range. */
export function boundsOf(range: Range): { prefix: string; start: string; end: string } {
  return { prefix: range.prefix ?? "", start: range.start ?? "", end: range.end ?? "" };
}

/** The fields of a message for how new a read must be. */
export function consistencyOf(stale: Stale | undefined): Pick<MessageInitShape<typeof ListRequestSchema>, "consistency" | "maxStalenessMs" | "token"> {
  if (stale === undefined) {
    return {};
  }
  return { consistency: Consistency.STALE, maxStalenessMs: millis("stale.maxAgeMs", stale.maxAgeMs ?? 0), token: stale.token ?? "" };
}
