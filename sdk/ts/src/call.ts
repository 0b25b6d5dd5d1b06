import { onAbort } from "./abort.js";
import { NotLeaderError, OutcomeUnknownError, RaftkvError, SessionExpiredError, TimeoutError, finish, type Attempt } from "./errors.js";
import type { Endpoint, Endpoints } from "./endpoint.js";
import { Failure, judgeCall } from "./failure.js";
import { jitter } from "./health.js";
import { answerMs, type Bounds } from "./operation.js";
import type { Identity } from "./session.js";

/** What every call takes. */
export interface CallOptions {
  /** Ends the call. What it throws then is the reason of the signal or, if a write was under way, an `OutcomeUnknownError` with that as its cause. */
  signal?: AbortSignal | undefined;
  /** How long the call goes on trying, in milliseconds; the default is that of the client. */
  timeoutMs?: number | undefined;
}

/** Where calls run. */
export interface CallContext {
  readonly endpoints: Endpoints;
  readonly timeoutMs: number;
  /** Is aborted with a `ClosedError` when the client is closed. */
  readonly closed: AbortSignal;
}

// An attempt may take a third of what is left of its caller's time, within bounds. What remains is for others.
const attemptShare = 3;
const attemptMinMs = 500;
const attemptMaxDefaultMs = 10_000;

const backoffMinMs = 5;
const backoffMaxMs = 500;
/** Bounds how long a node can make a client wait. */
const retryAfterMaxMs = 5000;
/** How often a call follows a hint at another leader at once; then it backs off: nodes that point at each other are in the middle of an election. */
const redirectsMax = 3;
/** How many attempts an error tells of, the latest. */
const attemptsMax = 8;

/** How long to wait before an attempt, longer with each. */
export class Backoff {
  #step = 0;

  next(afterMs: number): number {
    this.#step = Math.min(Math.max(2 * this.#step, backoffMinMs), backoffMaxMs);
    const asked = Math.min(afterMs, retryAfterMaxMs) * (1 + Math.random() / 2);
    return Math.max(jitter(this.#step), asked);
  }
}

/** Waits; throws the reason of the signal that ends first. */
export async function pause(ms: number, ...signals: (AbortSignal | undefined)[]): Promise<void> {
  const ends = signals.filter((s) => s !== undefined);
  ends.forEach((s) => s.throwIfAborted());
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => (forget(), resolve()), ms);
    const forget = onAbort(ends, () => (clearTimeout(timer), reject(ends.find((s) => s.aborted)?.reason)));
  });
}

/** The story of one call over all its attempts. */
export class Call {
  readonly #context: CallContext;
  readonly #operation: string;
  readonly #options: CallOptions;
  readonly #identity: Identity | undefined;
  readonly #attemptMaxMs: number;
  readonly #patienceMs: number;
  readonly #until: number;
  readonly #attempts: Attempt[] = [];
  readonly #backoff = new Backoff();
  #redirects = 0;
  /** An attempt may have been applied, or may still be. */
  #lost = false;

  /** `identity` is that of a write; `attemptMaxMs` bounds each attempt. */
  constructor(context: CallContext, operation: string, options: CallOptions, identity?: Identity, attemptMaxMs = attemptMaxDefaultMs) {
    this.#context = context;
    this.#operation = operation;
    this.#options = options;
    this.#identity = identity;
    this.#attemptMaxMs = attemptMaxMs;
    this.#patienceMs = options.timeoutMs ?? context.timeoutMs;
    this.#until = performance.now() + this.#patienceMs;
  }

  /**
   * Makes attempts until one succeeds or there is no use in another. `seen` is asked before each attempt that counts as a first one.
   *
   * The identity is ended, which acknowledges the answer, unless the outcome is unknown.
   */
  async run<T>(attempt: (endpoint: Endpoint, bounds: Bounds) => Promise<T>, seen: () => bigint = () => 0n): Promise<T> {
    const { endpoints } = this.#context;
    let endpoint = endpoints.next();
    try {
      for (;;) {
        if (this.#identity && !this.#lost) {
          this.#identity.seen = max(this.#identity.seen, seen());
        }
        try {
          const result = await this.#bounded(endpoint, attempt);
          endpoint.health.works();
          this.#lost = false; // the answer is that of all attempts
          return result;
        } catch (thrown) {
          endpoint = await this.#failed(judgeCall(thrown), endpoint);
        }
      }
    } finally {
      if (!this.#lost) {
        this.#identity?.end();
      }
    }
  }

  /** One attempt, which has its part of the time only. */
  async #bounded<T>(endpoint: Endpoint, attempt: (endpoint: Endpoint, bounds: Bounds) => Promise<T>): Promise<T> {
    const { closed } = this.#context;
    const { signal } = this.#options;
    const ms = this.#attemptMs();
    const controller = new AbortController();
    const noAnswer = new TimeoutError(`no answer within ${Math.round(ms)} ms`);
    const timer = setTimeout(() => controller.abort(noAnswer), ms);
    const forget = onAbort([signal, closed], () => controller.abort(signal?.aborted ? signal.reason : closed.reason));
    try {
      signal?.throwIfAborted();
      closed.throwIfAborted();
      return await attempt(endpoint, { signal: controller.signal, timeoutMs: Math.ceil(ms) });
    } catch (thrown) {
      if (!controller.signal.aborted && (signal?.aborted || closed.aborted)) {
        throw new Failure(thrown);
      }
      if (controller.signal.aborted) {
        const sent = !(thrown instanceof Failure) || thrown.unknown;
        throw new Failure(controller.signal.reason, { unknown: sent, retry: controller.signal.reason === noAnswer });
      }
      throw thrown;
    } finally {
      clearTimeout(timer);
      forget();
    }
  }

  #attemptMs(): number {
    const left = Math.max(this.#until - performance.now(), 1);
    const ms = Math.min(Math.max(left / attemptShare, attemptMinMs), this.#attemptMaxMs);
    return left - ms < attemptMinMs ? Math.min(left, this.#attemptMaxMs) : ms;
  }

  /** Learns from a failed attempt, and returns the endpoint of the next when its time has come, or throws the error of the call. */
  async #failed(f: Failure, asked: Endpoint): Promise<Endpoint> {
    const slow = f.error instanceof TimeoutError;
    this.#attempts.splice(0, this.#attempts.length - attemptsMax + 1);
    this.#attempts.push({ endpoint: asked.baseUrl, error: f.error });
    if (this.#identity) {
      const forgotten = f.error instanceof SessionExpiredError ? f.error : undefined;
      if (forgotten && !this.#lost) {
        this.#identity.seen = max(this.#identity.seen, forgotten.revision);
        f = new Failure(forgotten, { retry: true });
      }
      this.#lost = (this.#lost || f.unknown) && !f.decided;
    }
    if (f.down || slow) {
      asked.health.failed(f.down);
    } else if (!f.unknown) {
      asked.health.works();
    }
    if (!f.retry) {
      throw this.#error(f.error);
    }
    return this.#next(f, asked, slow || f.down);
  }

  /** Waits for the time of the next attempt. */
  async #next(f: Failure, asked: Endpoint, elsewhere: boolean): Promise<Endpoint> {
    const { endpoints, closed } = this.#context;
    const leader = f.error instanceof NotLeaderError ? endpoints.at(f.error.leaderEndpoint) : undefined;
    if (leader && leader !== asked && this.#redirects++ < redirectsMax) {
      return leader;
    }
    const wait = this.#backoff.next(f.afterMs);
    const left = this.#until - performance.now() - wait;
    // An attempt that could not be answered in time is not made: it would only make the outcome unknown.
    if (left <= 0 || (this.#identity && !this.#lost && left < answerMs(this.#patienceMs))) {
      throw this.#error(new TimeoutError(`nothing came of it within ${this.#patienceMs} ms`, { cause: f.error }));
    }
    await pause(wait, this.#options.signal, closed).catch((reason: unknown) => {
      throw this.#error(reason);
    });
    return endpoints.next(elsewhere ? asked : undefined);
  }

  /** The error of the call, which failed because of `cause`. */
  #error(cause: unknown): unknown {
    const error = this.#lost ? new OutcomeUnknownError(cause, this.#identity!) : cause;
    return error instanceof RaftkvError ? finish(error, this.#operation, this.#attempts) : error;
  }
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
