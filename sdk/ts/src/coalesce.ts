import { CrossShardError, DiskFullError, InvalidError, LeaseNotFoundError, LimitError } from "./errors.js";
import type { BatchOperation, BatchResult, DeleteResult, PutResult } from "./write.js";

/** How many requests may be under way before writes gather: browsers open six connections to a node over HTTP/1.1. */
const requestsMax = 4;
/** What a request holds at most; one write may be larger. */
const writesMax = 1000;
const bytesMax = 512 << 10;

type Result = PutResult | DeleteResult;

/** A write that shares a request with others. */
interface Waiting {
  readonly write: BatchOperation;
  readonly key: string;
  readonly bytes: number;
  resolve(result: Result): void;
  reject(error: unknown): void;
}

/** Does several writes as one, or one by itself. */
export interface Writer {
  batch(writes: readonly BatchOperation[]): Promise<BatchResult>;
  alone(write: BatchOperation): Promise<Result>;
}

/**
 * Lets concurrent writes share requests where a transport has no bidirectional streams: as one atomic batch, which has one request id, so that a retry is as safe as
 * that of a write alone. While requests are under way writes gather, and what has gathered is the next request: no timer delays a write. The client does
 * not know which keys share a shard. A node that is asked for too much says so, and the writes go again shard by shard.
 */
export class Coalescer {
  readonly #writer: Writer;
  readonly #queue = new Set<Waiting>();
  #underWay = 0;
  #due = false;

  constructor(writer: Writer) {
    this.#writer = writer;
  }

  write(write: BatchOperation): Promise<Result> {
    return new Promise((resolve, reject) => {
      const [key, bytes] = "put" in write ? [write.put, write.value.length] : [write.delete, 0];
      this.#queue.add({ write, key, bytes: bytes + key.length, resolve, reject });
      this.#soon();
    });
  }

  /** Sends when what runs now has asked for all that it will. */
  #soon(): void {
    if (!this.#due) {
      this.#due = true;
      queueMicrotask(() => {
        this.#due = false;
        while (this.#queue.size > 0 && this.#underWay < requestsMax) {
          void this.#request(this.#take());
        }
      });
    }
  }

  /** Takes what fits into a request, of each key one write. */
  #take(): Waiting[] {
    const taken = new Map<string, Waiting>();
    let bytes = 0;
    for (const waiting of this.#queue) {
      if (taken.has(waiting.key)) {
        continue;
      }
      bytes += waiting.bytes;
      if (taken.size === writesMax || (taken.size > 0 && bytes > bytesMax)) {
        break;
      }
      taken.set(waiting.key, waiting);
      this.#queue.delete(waiting);
    }
    return [...taken.values()];
  }

  async #request(group: Waiting[]): Promise<void> {
    this.#underWay++;
    await this.#write(group);
    this.#underWay--;
    this.#soon();
  }

  /** Does writes, and hands each its result. */
  async #write(group: Waiting[]): Promise<void> {
    const [first] = group;
    if (group.length === 1) {
      return this.#writer.alone(first!.write).then(first!.resolve, first!.reject);
    }
    try {
      const { results } = await this.#writer.batch(group.map((w) => w.write));
      group.forEach((w, i) => w.resolve(results[i]!));
    } catch (error) {
      const parts = split(group, error);
      if (parts === undefined) {
        return group.forEach((w) => w.reject(error));
      }
      await Promise.all(parts.map((part) => this.#write(part)));
    }
  }
}

/** The parts in which writes go again, of which nothing was applied; undefined if that is of no use. */
function split(group: Waiting[], error: unknown): Waiting[][] | undefined {
  if (error instanceof CrossShardError && error.groups.length > 1) {
    const shards = new Map(error.groups.flatMap(({ shard, keys }) => keys.map((key) => [key, shard] as const)));
    return [...new Set(shards.values())].map((shard) => group.filter((w) => shards.get(w.key) === shard));
  }
  // One of them may be at fault, and the others are not to suffer for it.
  const atFault = [InvalidError, LimitError, LeaseNotFoundError, DiskFullError, CrossShardError].some((type) => error instanceof type);
  return atFault ? group.map((w) => [w]) : undefined;
}
