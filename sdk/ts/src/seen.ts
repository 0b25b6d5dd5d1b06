import { create, toBinary } from "@bufbuild/protobuf";
import { base64Encode } from "@bufbuild/protobuf/wire";
import { PositionSchema } from "./gen/raftkv/v1/consistency_pb.js";
import type { ResponseHeader } from "./gen/raftkv/v1/header_pb.js";

/** Of how many keys the shard is remembered. */
const keysMax = 4096;

/**
 * What the client has seen of the shards. It hashes no keys, so it knows the shard of a key from an answer only. It never guesses one: a revision of another
 * shard as `seen` of a write could let a retry apply twice, and none costs one more round trip at worst.
 */
export class Seen {
  #cluster = "";
  readonly #revisions = new Map<number, bigint>();
  readonly #shards = new Map<string, number>(); // the keys of late, the latest last

  /** Takes note of an answer, which was about a key. */
  heard(header: ResponseHeader | undefined, key?: string): void {
    if (header === undefined || header.shard === 0) {
      return;
    }
    this.#cluster = header.clusterId || this.#cluster;
    if (header.revision > (this.#revisions.get(header.shard) ?? 0n)) {
      this.#revisions.set(header.shard, header.revision);
    }
    if (key !== undefined) {
      this.#shards.delete(key);
      this.#shards.set(key, header.shard);
      if (this.#shards.size > keysMax) {
        this.#shards.delete(this.#shards.keys().next().value!);
      }
    }
  }

  /** The newest revision known of the shard of a key; 0 if that shard is not known. */
  revision(key: string): bigint {
    const shard = this.#shards.get(key);
    return (shard !== undefined && this.#revisions.get(shard)) || 0n;
  }

  /** A token of everything seen; empty before the first answer. */
  token(): string {
    const cluster = this.#cluster.match(/../g)?.map((byte) => parseInt(byte, 16));
    if (cluster === undefined) {
      return "";
    }
    const shards = [...this.#revisions].sort(([a], [b]) => a - b).map(([shard, revision]) => ({ shard, revision }));
    return base64Encode(toBinary(PositionSchema, create(PositionSchema, { version: 1, clusterId: new Uint8Array(cluster), shards })), "url");
  }
}
