import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { onAbort } from "./abort.js";
import { Backoff, pause, type CallContext } from "./call.js";
import { Cursor, covers, placeOf, same, type Told } from "./cursor.js";
import type { Endpoint } from "./endpoint.js";
import { InvalidError, RaftkvError, TimeoutError, UnavailableError, finish, type Attempt } from "./errors.js";
import { Failure, judgeCall } from "./failure.js";
import { EventType, type Event } from "./gen/raftkv/v1/watch_pb.js";
import { WatchRequestSchema, type WatchResponse } from "./gen/raftkv/v1/watch_service_pb.js";
import { Item, itemOf } from "./item.js";
import { boundsOf, type Range } from "./range.js";

/** How long a node may take to begin a watch. Then another is asked. */
const beginMs = 5000;
/** How often a node says how far it is when there is nothing else to say, unless asked for another interval. */
const progressMs = 10_000;
/** A stream that has lasted so long was a good one, though it said nothing. */
const healthyMs = 1000;

/** What can be watched: a key, or a range of keys. */
export type Watchable = { key: string; prefix?: never; start?: never; end?: never } | (Range & { key?: never });

/** Options of a watch. */
export interface WatchOptions {
  /** Ends the watch, which throws the reason. So does leaving the loop, without an error. */
  signal?: AbortSignal | undefined;
  /**
   * Begin with the changes of this revision of the shard of the keys: for a key, or a prefix with a whole `{tag}`, because each shard counts its own. A revision
   * that is forgotten is a `CompactedError`.
   */
  fromRevision?: bigint | undefined;
  /** Go on behind the event that had the token. `fromRevision` and `initial` do not count then. */
  token?: string | undefined;
  /** Tell the keys as they are when the watch begins first, then `initial-done`, then what changes. */
  initial?: boolean | undefined;
  /** Tell with each change what the key was before. */
  previous?: boolean | undefined;
  /** Leave the puts out. */
  withoutPuts?: boolean | undefined;
  /** Leave the deletes out. */
  withoutDeletes?: boolean | undefined;
  /** Tell when the watch has begun, and how far it is whenever nothing else has been told for so many milliseconds: 100 to 3,600,000. */
  progressMs?: number | undefined;
  /**
   * End the watch, with an error, when no node has served it for so long. Without it a watch that has begun goes on for ever, and one that has not gives up after
   * the timeout of the client.
   */
  patienceMs?: number | undefined;
}

interface Behind {
  /** Where to go on behind this event, at any node, as long as the cluster has the history. */
  readonly token: string;
}

/** A key was written or removed. */
export interface Change extends Behind {
  readonly type: "put" | "delete";
  /** The key as the change has left it. After a delete it has only `key` and, as `modRevision`, the revision of the delete. */
  readonly item: Item;
  /** The item as it was before, if that was asked for and it existed. */
  readonly previous: Item | undefined;
  /** That of the change. Events of one shard come in the order of their revisions; between shards there is no order. */
  readonly revision: bigint;
  readonly shard: number;
  /** The key stands as it was when the watch began; nothing has changed it now. */
  readonly initial: boolean;
  /** Nobody has deleted the key: its time was over, or its lease has ended. */
  readonly expired: boolean;
}

/** All keys asked for by `initial` have been told. */
export interface InitialDone extends Behind {
  readonly type: "initial-done";
}

/** How far the watch is; only with `progressMs`, and the first event then is one: the watch has begun. */
export interface Progress extends Behind {
  readonly type: "progress";
  /** For each shard the revision up to which every event has been told, and how long ago that was all there was, if the watch has caught up. */
  readonly shards: readonly { readonly shard: number; readonly revision: bigint; readonly ageMs: number | undefined }[];
}

/** One change of one key, or a mark of how far a watch is. */
export type WatchEvent = Change | InitialDone | Progress;

/** One watch over all its streams. It runs as its user pulls: there is one response in memory, and what one stream may have received. */
export class Watcher {
  readonly #context: CallContext;
  readonly #options: WatchOptions;
  readonly #request: MessageInitShape<typeof WatchRequestSchema>;
  readonly #name: string;
  readonly #quietMs: number;
  #at: Cursor;
  #begun = false;
  /** When a node has last told something. */
  #served = performance.now();
  /** The places of the last event of each shard on the present stream. */
  #streamed = new Map<number, Told>();

  constructor(context: CallContext, what: Watchable, o: WatchOptions) {
    if (what.key === "") {
      throw new InvalidError("a key to watch must not be empty");
    }
    this.#context = context;
    this.#options = o;
    this.#at = Cursor.parse(o.token ?? "");
    this.#quietMs = Math.max(3 * (o.progressMs ?? progressMs), beginMs);
    this.#name = `watch ${JSON.stringify(what)}`;
    this.#request = {
      ...(what.key === undefined ? boundsOf(what) : { key: what.key }),
      revision: o.fromRevision ?? 0n,
      includeInitial: o.initial ?? false,
      noPuts: o.withoutPuts ?? false,
      noDeletes: o.withoutDeletes ?? false,
      prevKv: o.previous ?? false,
      progressIntervalMs: Math.ceil(o.progressMs ?? 0),
    };
  }

  /** Tells events until the user leaves or the watch cannot go on. */
  async *run(): AsyncGenerator<WatchEvent, void, undefined> {
    const { endpoints, closed } = this.#context;
    const { signal } = this.#options;
    let attempts: Attempt[] = [];
    let backoff = new Backoff();
    let endpoint = endpoints.next();
    for (;;) {
      signal?.throwIfAborted();
      closed.throwIfAborted();
      const from = performance.now();
      const told = { any: false };
      const failure = yield* this.#follow(endpoint, told);
      if (failure.down) {
        endpoint.health.failed(true);
      }
      if (told.any && (this.#streamed.size > 0 || performance.now() - from > healthyMs)) {
        [attempts, backoff] = [[], new Backoff()];
      }
      attempts = [...attempts.slice(-7), { endpoint: endpoint.baseUrl, error: failure.error }];
      if (!failure.retry) {
        throw failure.error instanceof RaftkvError ? finish(failure.error, this.#name, attempts) : failure.error;
      }
      const wait = backoff.next(failure.afterMs);
      if (this.#patienceLeftMs() <= wait) {
        throw finish(new TimeoutError("no node serves the watch", { cause: failure.error }), this.#name, attempts);
      }
      await pause(wait, signal, closed);
      endpoint = endpoints.next(endpoint);
    }
  }

  /** How long the watch may go on without a node. */
  #patienceLeftMs(): number {
    const patience = this.#options.patienceMs ?? (this.#begun ? Infinity : this.#context.timeoutMs);
    return this.#served + patience - performance.now();
  }

  /** Tells the events of one stream, and returns why that has ended. */
  async *#follow(endpoint: Endpoint, told: { any: boolean }): AsyncGenerator<WatchEvent, Failure, undefined> {
    const { closed } = this.#context;
    const { signal } = this.#options;
    const controller = new AbortController();
    const forget = onAbort([signal, closed], () => controller.abort(signal?.aborted ? signal.reason : closed.reason));
    const silent = new UnavailableError("the node has said nothing for too long, as when a shard has no leader");
    const listen = (ms: number) => setTimeout(() => controller.abort(silent), ms);
    let silence = listen(Math.max(1, Math.min(beginMs, this.#patienceLeftMs() / 2)));
    this.#streamed = new Map();
    try {
      const request = create(WatchRequestSchema, { ...this.#request, token: this.#at.server });
      for await (const response of endpoint.watch.watch(request, { signal: controller.signal })) {
        clearTimeout(silence); // while the user takes his time
        this.#begun = told.any = true;
        endpoint.health.works();
        yield* this.#take(response);
        silence = listen(this.#quietMs);
        this.#served = performance.now();
      }
      return new Failure(new UnavailableError("the node ended the watch"), { retry: true });
    } catch (error) {
      if (controller.signal.aborted) {
        const gone = controller.signal.reason === silent;
        return new Failure(controller.signal.reason, { retry: gone, down: gone });
      }
      return judgeCall(error);
    } finally {
      clearTimeout(silence);
      forget();
      controller.abort(); // of a stream that the user has left
    }
  }

  /** Tells the events of a response. */
  *#take(r: WatchResponse): Generator<WatchEvent, void, undefined> {
    const behind = this.#behind(r);
    for (const [i, e] of r.events.entries()) {
      const place = placeOf(e, this.#streamed.get(e.shard));
      this.#streamed.set(e.shard, place);
      const before = this.#at.of(e.shard);
      if (before && covers(before, place)) {
        continue;
      }
      const last = i === r.events.length - 1 && !r.initialDone;
      this.#at = last ? behind : this.#at.with(place); // so that a token is as short as can be
      yield change(e, this.#at);
    }
    this.#at = behind;
    if (r.initialDone) {
      yield { type: "initial-done", token: behind.toString() };
    }
    if (r.progress.length > 0 && this.#options.progressMs !== undefined) {
      const shards = r.progress.map((p) => ({ shard: p.shard, revision: p.revision, ageMs: p.freshnessMs === undefined ? undefined : Number(p.freshnessMs) }));
      yield { type: "progress", shards, token: behind.toString() };
    }
  }

  /**
   * The cursor behind a whole response: its token, and what was told beyond. That is a part of a revision, or what was told of a stream before this one whose
   * responses were longer.
   */
  #behind(r: WatchResponse): Cursor {
    const next = new Cursor(r.token, this.#at.told);
    const shard = r.events[0]?.shard;
    if (shard === undefined) {
      return next;
    }
    const last = r.events.reduce((place, e) => placeOf(e, place), this.#streamed.get(shard))!;
    const before = this.#at.of(shard);
    if (before && covers(before, last) && !same(before, last)) {
      return next;
    }
    return r.moreOfRevision ? next.with(last) : next.without(shard);
  }
}

function change(e: Event, behind: Cursor): Change {
  return {
    type: e.type === EventType.DELETE ? "delete" : "put",
    item: new Item(e.kv!),
    previous: itemOf(e.prevKv),
    revision: e.revision,
    shard: e.shard,
    initial: e.initial,
    expired: e.expired,
    token: behind.toString(),
  };
}
