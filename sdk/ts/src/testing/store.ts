import { create } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { compareBytes } from "../cursor.js";
import { CompactedSchema, FutureRevisionSchema, LeaseExistsSchema, LeaseNotFoundSchema, RequestFencedSchema } from "../gen/raftkv/v1/error_pb.js";
import { KeyValueSchema, type KeyValue } from "../gen/raftkv/v1/key_value_pb.js";
import type { RequestId } from "../gen/raftkv/v1/request_id_pb.js";
import { EventSchema, EventType, type Event } from "../gen/raftkv/v1/watch_pb.js";
import { refuse } from "./refuse.js";

/** The one shard of the cluster. */
export const shard = 1;

/** A key as one revision has left it; without `kv` it was removed. */
interface Version {
  readonly revision: bigint;
  readonly kv?: KeyValue;
  /** When it goes; undefined for never. */
  readonly deadline?: number;
}

/** What is left of a lease. */
interface LeaseState {
  readonly ttlMs: number;
  deadline: number;
}

/** A write of one key. */
export interface Write {
  readonly key: string;
  /** Undefined removes the key. */
  readonly value?: Uint8Array;
  readonly ttlMs?: bigint;
  readonly leaseId?: bigint;
}

/** What a write has found and left. */
export interface Written {
  readonly before?: KeyValue;
  readonly after?: KeyValue;
}

/** The state of a cluster in memory: one shard with its whole history, and a clock that only tests move. */
export class Store {
  revision = 0n;
  /** The oldest revision that is known. */
  floor = 1n;
  readonly #versions = new Map<string, Version[]>();
  readonly #events: Event[] = [];
  readonly #results = new Map<string, unknown>();
  readonly #leases = new Map<bigint, LeaseState>();
  readonly #listeners = new Set<() => void>();
  #now = 0;

  /** The key at a revision, or now. */
  read(key: string, revision = this.revision): KeyValue | undefined {
    if (revision > this.revision) {
      throw refuse(Code.OutOfRange, FutureRevisionSchema, { revision, current: this.revision, shard });
    }
    if (revision < this.floor && revision < this.revision) {
      throw this.compacted(revision);
    }
    const version = this.#versions.get(key)?.findLast((v) => v.revision <= revision);
    const left = version?.deadline === undefined ? 0 : Math.max(1, version.deadline - this.#now);
    return version?.kv && create(KeyValueSchema, { ...version.kv, ttlRemainingMs: BigInt(Math.ceil(left)) });
  }

  /** All keys, in the order of their bytes. */
  keys(): string[] {
    return [...this.#versions.keys()].filter((key) => this.read(key) !== undefined).sort(compareBytes);
  }

  /** Does writes under one revision, which is new if anything changes. */
  write(writes: readonly Write[]): Written[] {
    writes.forEach((w) => w.leaseId && this.lease(w.leaseId));
    const changes = writes.filter((w) => w.value !== undefined || this.read(w.key) !== undefined);
    const before = writes.map((w) => this.read(w.key));
    if (changes.length > 0) {
      this.revision++;
    }
    changes.forEach((w) => this.#change(w));
    this.#listeners.forEach((tell) => tell());
    return writes.map((w, i) => ({ before: before[i], after: this.read(w.key) }));
  }

  #change({ key, value, ttlMs = 0n, leaseId = 0n }: Write): void {
    const revision = this.revision;
    const before = this.#versions.get(key)?.at(-1)?.kv;
    const kv =
      value &&
      create(KeyValueSchema, { key, value, leaseId, createRevision: before?.createRevision ?? revision, modRevision: revision, version: (before?.version ?? 0n) + 1n });
    const deadline = ttlMs > 0n ? this.#now + Number(ttlMs) : undefined;
    this.#versions.set(key, [...(this.#versions.get(key) ?? []), { revision, kv, deadline }]);
    const type = kv ? EventType.PUT : EventType.DELETE;
    this.#events.push(create(EventSchema, { type, kv: kv ?? { key, modRevision: revision }, prevKv: before, shard, revision }));
  }

  /** Does something once for each request id, and gives its first result or error again. */
  once<T>(id: RequestId | undefined, action: () => T): T {
    if (id === undefined) {
      return action();
    }
    const name = `${id.clientId}/${id.sequence}`;
    if (!this.#results.has(name)) {
      let result: () => unknown;
      try {
        const value = action();
        result = () => value;
      } catch (error) {
        result = () => {
          throw error;
        };
      }
      this.#results.set(name, result);
    }
    return (this.#results.get(name) as () => T)();
  }

  /** Whether a request has been executed. If not, it never will be. */
  fence(id: RequestId): (() => unknown) | undefined {
    const name = `${id.clientId}/${id.sequence}`;
    const result = this.#results.get(name) as (() => unknown) | undefined;
    if (result === undefined) {
      const fenced = () => {
        throw refuse(Code.FailedPrecondition, RequestFencedSchema, { shard });
      };
      this.#results.set(name, fenced);
    }
    return result;
  }

  /** The events behind a revision. */
  eventsAfter(revision: bigint): Event[] {
    if (revision + 1n < this.floor) {
      throw this.compacted(revision + 1n);
    }
    return this.#events.filter((e) => e.revision > revision);
  }

  compacted(revision: bigint): Error {
    return refuse(Code.OutOfRange, CompactedSchema, { revision, oldest: this.floor, shard });
  }

  /** Waits until something is written, or the signal ends. */
  changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const tell = () => {
        this.#listeners.delete(tell);
        signal.removeEventListener("abort", tell);
        resolve();
      };
      this.#listeners.add(tell);
      signal.addEventListener("abort", tell);
    });
  }

  lease(id: bigint): LeaseState {
    const lease = this.#leases.get(id);
    if (lease === undefined) {
      throw refuse(Code.FailedPrecondition, LeaseNotFoundSchema, { leaseId: id });
    }
    return lease;
  }

  /** How long a lease lives on. */
  remainingMs(id: bigint): number {
    return this.lease(id).deadline - this.#now;
  }

  grant(id: bigint, ttlMs: number): void {
    if (this.#leases.has(id)) {
      throw refuse(Code.FailedPrecondition, LeaseExistsSchema, { leaseId: id });
    }
    this.#leases.set(id, { ttlMs, deadline: this.#now + ttlMs });
  }

  keepAlive(id: bigint): void {
    const lease = this.lease(id);
    lease.deadline = this.#now + lease.ttlMs;
  }

  revoke(id: bigint): void {
    this.lease(id);
    this.#leases.delete(id);
    this.write(this.keysOf(id).map((key) => ({ key })));
  }

  leaseIds(): bigint[] {
    return [...this.#leases.keys()];
  }

  keysOf(id: bigint): string[] {
    return this.keys().filter((key) => this.read(key)!.leaseId === id);
  }

  /** Moves the clock, and ends what is over by then. */
  advance(ms: number): void {
    this.#now += ms;
    this.leaseIds()
      .filter((id) => this.remainingMs(id) <= 0)
      .forEach((id) => this.revoke(id));
    const over = this.keys().filter((key) => (this.#versions.get(key)!.at(-1)!.deadline ?? Infinity) <= this.#now);
    this.write(over.map((key) => ({ key })));
  }
}
