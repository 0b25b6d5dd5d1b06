import { base64Decode, base64Encode } from "@bufbuild/protobuf/wire";
import { InvalidError } from "./errors.js";
import type { Event } from "./gen/raftkv/v1/watch_pb.js";

/** What was handed over of a shard behind the token of the node: the keys of the start up to `key`, or all events below `revision` and `count` of it. */
export type Told = { readonly shard: number } & ({ readonly key: string } | { readonly revision: bigint; readonly count: bigint });

/**
 * Where a watch is: behind all that a token of a node is behind, and what `told` says besides. A node has one token for a response of many events, and of a revision of
 * which it has sent a part all comes again; `told` is what the client leaves out then. It is immutable, because events share it.
 *
 * Invariant: the events of a revision of a shard come in one order, whichever node tells them, and so do the keys of the start.
 */
export class Cursor {
  constructor(
    readonly server: string,
    /** By shard, each at most once. */
    readonly told: readonly Told[] = [],
  ) {}

  of(shard: number): Told | undefined {
    return this.told.find((t) => t.shard === shard);
  }

  /** The same with another place in one shard. */
  with(place: Told): Cursor {
    return new Cursor(this.server, [...this.without(place.shard).told, place].sort((a, b) => a.shard - b.shard));
  }

  /** The same with no place in one shard. */
  without(shard: number): Cursor {
    return this.of(shard) ? new Cursor(this.server, this.told.filter((t) => t.shard !== shard)) : this;
  }

  /**
   * The token of an event: that of the node, and for each shard with something told behind it `~shard.revision.count` or, within the keys of the start, `~shard.key` in
   * base64url. So the token of a node is one, too, and the Go SDK has the same.
   */
  toString(): string {
    const places = this.told.map((t) => `~${t.shard}.${"key" in t ? base64Encode(new TextEncoder().encode(t.key), "url") : `${t.revision}.${t.count}`}`);
    return this.server + places.join("");
  }

  static parse(token: string): Cursor {
    const [server = "", ...parts] = token.split("~");
    const told = parts.map(parseTold);
    const ascending = told.every((t, i) => i === 0 || t.shard > told[i - 1]!.shard);
    if ((server === "" && told.length > 0) || !ascending) {
      throw badToken();
    }
    return new Cursor(server, told);
  }
}

function parseTold(text: string): Told {
  const fields = text.split(".");
  const [shard, second, count] = fields;
  const numbers = count === undefined ? [shard] : [shard, second, count];
  if (fields.length < 2 || fields.length > 3 || second === "" || !numbers.every((n) => /^\d{1,20}$/.test(n ?? ""))) {
    throw badToken();
  }
  if (count !== undefined) {
    return { shard: Number(shard), revision: BigInt(second!), count: BigInt(count) };
  }
  try {
    return { shard: Number(shard), key: new TextDecoder("utf-8", { fatal: true }).decode(base64Decode(second!)) };
  } catch {
    throw badToken();
  }
}

function badToken(): InvalidError {
  return new InvalidError("token is not one that an event of a watch has given");
}

/** Where an event stands that comes behind `last`, the place of the event before it of that shard on this stream. */
export function placeOf(e: Event, last: Told | undefined): Told {
  if (e.initial) {
    return { shard: e.shard, key: e.kv?.key ?? "" };
  }
  const again = last && "revision" in last && last.revision === e.revision;
  return { shard: e.shard, revision: e.revision, count: again ? last.count + 1n : 1n };
}

/** Says whether `place`, which is of the same shard, has been told. */
export function covers(told: Told, place: Told): boolean {
  if ("key" in told || "key" in place) {
    return "key" in told && "key" in place && compareBytes(place.key, told.key) <= 0;
  }
  return place.revision < told.revision || (place.revision === told.revision && place.count <= told.count);
}

/** Says whether two places are one. */
export function same(a: Told, b: Told): boolean {
  return covers(a, b) && covers(b, a);
}

/** Compares strings as raftkv does, by their UTF-8. That of JavaScript, by UTF-16, puts what is beyond U+FFFF too early. */
export function compareBytes(a: string, b: string): number {
  const [x, y] = [new TextEncoder().encode(a), new TextEncoder().encode(b)];
  const at = x.findIndex((byte, i) => byte !== y[i]);
  return at < 0 ? x.length - y.length : x[at]! - (y[at] ?? -1);
}
