import { create } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { RefusedError, UnavailableError, messageOf } from "./errors.js";
import { Failure, judgeCall, judgeStatus } from "./failure.js";
import { ExecRequestSchema, type ExecRequest, type ExecResult, type KvService } from "./gen/raftkv/v1/kv_service_pb.js";
import { answerMs, sizeOf, type Bounds, type Operation, type Response } from "./operation.js";

/** How many messages may be under way before operations gather. */
const flightsMax = 2;
/** A message leaves flight when half of it is answered, or after this: one shard without a leader must not hold up the others. */
const flightMs = 100;
/** What a message holds at most. A larger operation is not for a lane. */
const operationsMax = 1024;
export const bytesMax = 512 << 10;
/** An unused stream is closed, so that it does not keep a process alive. */
const idleMs = 1000;

/** One attempt of an operation on its way through a lane. */
interface Entry {
  readonly operation: Operation;
  readonly bytes: number;
  readonly timeoutMs: number;
  flight?: Flight;
  resolve(response: Response): void;
  reject(failure: Failure): void;
}

/** A message under way. */
interface Flight {
  unanswered: number;
  readonly enough: number;
  land(): void;
}

/** One stream and what is under way on it. */
class Stream {
  readonly controller = new AbortController();
  readonly pending = new Map<bigint, Entry>();
  flights = 0;
  ended = false;
  served = false;
  wake = (): void => {};
  #lastId = 0n;

  /** Makes a message of entries. */
  message(entries: Entry[]): ExecRequest {
    const flight: Flight = { unanswered: entries.length, enough: entries.length / 2, land: () => {} };
    this.flights++;
    const timer = setTimeout(() => flight.land(), flightMs);
    flight.land = () => {
      clearTimeout(timer);
      flight.land = () => {};
      this.flights--;
      this.wake();
    };
    const operations = entries.map((entry) => {
      const id = ++this.#lastId;
      entry.flight = flight;
      this.pending.set(id, entry);
      return { id, operation: entry.operation };
    });
    return create(ExecRequestSchema, { operations, timeoutMs: Math.max(...entries.map((e) => e.timeoutMs)) });
  }

  /** Takes out what the answer is for; undefined if nobody waits for it any more. */
  answered(id: bigint): Entry | undefined {
    const entry = this.pending.get(id);
    this.pending.delete(id);
    const flight = entry?.flight;
    if (flight && --flight.unanswered <= flight.enough) {
      flight.land();
    }
    return entry;
  }
}

/**
 * Carries operations to one node on an `Exec` stream. While two messages are under way operations gather, and what has gathered is the next message: no
 * timer delays an operation.
 *
 * Until a message takes an operation it is in the queue, and a caller that gives up takes it out: it knows whether it may have been executed.
 */
export class Lane {
  readonly #kv: Client<typeof KvService>;
  readonly #queue = new Set<Entry>();
  #stream: Stream | undefined;
  #idle: ReturnType<typeof setTimeout> | undefined;

  constructor(kv: Client<typeof KvService>) {
    this.#kv = kv;
  }

  /** Executes an operation. It fails with a {@link Failure}. */
  run(operation: Operation, bounds: Bounds): Promise<Response> {
    return new Promise((resolve, reject) => {
      if (bounds.signal.aborted) {
        return reject(new Failure(bounds.signal.reason));
      }
      const entry: Entry = { operation, bytes: sizeOf(operation), timeoutMs: Math.ceil(bounds.timeoutMs - answerMs(bounds.timeoutMs)), resolve, reject };
      const leave = () => {
        reject(new Failure(bounds.signal.reason, { unknown: !this.#queue.delete(entry) }));
        this.#rest();
      };
      bounds.signal.addEventListener("abort", leave, { once: true });
      this.#queue.add(entry);
      clearTimeout(this.#idle);
      this.#stream ??= this.#open();
      this.#stream.wake();
    });
  }

  #open(): Stream {
    const stream = new Stream();
    void this.#receive(stream);
    return stream;
  }

  async *#messages(stream: Stream): AsyncGenerator<ExecRequest> {
    for (;;) {
      while (!stream.ended && (this.#queue.size === 0 || stream.flights >= flightsMax)) {
        await new Promise<void>((resolve) => (stream.wake = resolve));
      }
      if (stream.ended) {
        return;
      }
      yield stream.message(this.#take());
    }
  }

  /** Takes what fits into a message from the queue. */
  #take(): Entry[] {
    const entries: Entry[] = [];
    let bytes = 0;
    for (const entry of this.#queue) {
      bytes += entry.bytes;
      if (entries.length > 0 && (entries.length === operationsMax || bytes > bytesMax)) {
        break;
      }
      this.#queue.delete(entry);
      entries.push(entry);
    }
    return entries;
  }

  async #receive(stream: Stream): Promise<void> {
    let cause: unknown = new Error("the node ended the stream");
    try {
      for await (const response of this.#kv.exec(this.#messages(stream), { signal: stream.controller.signal })) {
        stream.served = true;
        response.results.forEach((result) => settle(stream.answered(result.id), result));
        this.#rest();
      }
    } catch (error) {
      cause = error;
    }
    this.#broken(stream, cause);
  }

  /** Sees to the end of the stream if nobody uses it any more. */
  #rest(): void {
    const stream = this.#stream;
    if (stream?.pending.size === 0 && this.#queue.size === 0) {
      clearTimeout(this.#idle);
      this.#idle = setTimeout(() => this.#end(stream), idleMs);
    }
  }

  /** Ends a stream that is not in use. */
  #end(stream: Stream): void {
    stream.ended = true;
    stream.wake();
    if (this.#stream === stream) {
      this.#stream = undefined;
    }
  }

  /** Fails what was under way on a stream that has ended, and what waited for it. */
  #broken(stream: Stream, cause: unknown): void {
    const current = this.#stream === stream;
    this.#end(stream);
    const failure = brokenStream(cause, stream.served);
    stream.pending.forEach((entry) => {
      entry.flight?.land();
      entry.reject(failure);
    });
    if (current) {
      const queued = [...this.#queue];
      this.#queue.clear();
      queued.forEach((entry) => entry.reject(new Failure(failure.error, { retry: failure.retry, down: failure.down })));
    }
  }

  /** Ends the stream at once. */
  close(reason: unknown): void {
    clearTimeout(this.#idle);
    this.#stream?.controller.abort(reason);
  }
}

function settle(entry: Entry | undefined, { result }: ExecResult): void {
  switch (result.case) {
    case "error":
      return entry?.reject(judgeStatus(result.value));
    case undefined:
      return entry?.reject(new Failure(new UnavailableError("the node gave no answer of a known kind"), { unknown: true }));
    default:
      return entry?.resolve(result);
  }
}

/** Judges operations that were under way on a stream which ended, by whatever it ended: what the node says of the stream tells nothing of one of them. */
function brokenStream(cause: unknown, served: boolean): Failure {
  const failure = judgeCall(cause);
  if (!served && !failure.unknown && (failure.down || failure.error instanceof RefusedError)) {
    return failure;
  }
  return new Failure(new UnavailableError(`connection lost: ${messageOf(cause)}`, { cause }), { unknown: true, retry: true, down: true });
}
