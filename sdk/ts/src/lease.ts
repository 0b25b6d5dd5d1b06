import { onAbort } from "./abort.js";
import { Backoff, Call, type CallContext, type CallOptions } from "./call.js";
import { LeaseExistsError, LeaseLostError, LeaseNotFoundError, LeaseRevokedError, SessionExpiredError, type WriteId } from "./errors.js";
import type { Lease as LeaseMessage } from "./gen/raftkv/v1/lease_pb.js";
import { jitter } from "./health.js";
import type { Identity, Sessions } from "./session.js";
import { millis } from "./write.js";

/** The part of a time to live that the client does not count on: its clock may be slower than the cluster's. */
const driftShare = 1 / 100;
/** The next keep-alive is due after about this part of the time to live, so that several may fail. */
const keepAliveShare = 3 / 10;
/** Bounds an attempt, so that a node that hangs does not use up the time to ask others; of a short time to live it is a quarter. */
const keepAliveMs = 2000;
/** A grant that took more than this part of the time to live is followed by a keep-alive. */
const lateShare = 1 / 4;
/** How often a grant is asked for again because the answer did not fit: an id that is taken, a session that is forgotten. */
const grantsMax = 5;

/** Options of a lease. */
export interface LeaseOptions extends CallOptions {
  /** Prolong the lease in the background, which is the default; else its holder calls `keepAlive`. */
  keepAlive?: boolean | undefined;
}

/** Where leases live. */
export interface LeaseContext extends CallContext {
  readonly sessions: Sessions;
}

/**
 * A lease that this client holds: a time to live that keys share and that the client prolongs in the background until it is revoked or the client closed. When it
 * ends, its keys go.
 *
 * The client counts from when it sent the last keep-alive that was answered, by its own monotonic clock, and leaves a hundredth for clocks that do not run alike. So
 * `signal` is aborted before the cluster can have ended the lease, also if no node is reached. But timers of a page in the background may be late, and a process
 * that is held up acts late: what must not be done twice is written in a transaction that compares a key on the lease.
 */
export class Lease {
  readonly id: bigint;
  /** How long the lease lives on after each keep-alive, in milliseconds. */
  readonly ttlMs: number;
  readonly #context: LeaseContext;
  readonly #life = new AbortController();
  readonly #forget: () => void;
  #until = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #expiry: ReturnType<typeof setTimeout> | undefined;
  #failure: unknown;

  /** @internal */
  constructor(context: LeaseContext, id: bigint, ttlMs: number, sent: number, automatic: boolean) {
    this.#context = context;
    this.id = id;
    this.ttlMs = ttlMs;
    this.#forget = onAbort([context.closed], () => this.#end(context.closed.reason));
    this.#kept(sent);
    if (automatic) {
      this.#schedule(sent, new Backoff());
    }
  }

  /**
   * Is aborted when the holder can no longer count on the lease. The reason is a `LeaseLostError`, a `LeaseRevokedError` or a `ClosedError`. Pass it to calls that
   * are to end with the lease.
   */
  get signal(): AbortSignal {
    void this.remainingMs; // by the clock, and not only when the timer comes to it
    return this.#life.signal;
  }

  /** For how long the holder can count on the lease if no further keep-alive is answered; 0 if it cannot any more. */
  get remainingMs(): number {
    const left = this.#life.signal.aborted ? 0 : Math.max(0, this.#until - performance.now());
    if (left === 0) {
      this.#end(new LeaseLostError(this.id, this.#failure));
    }
    return left;
  }

  /** Prolongs the lease at once. It is needed only without the keep-alive in the background. */
  async keepAlive(o: CallOptions = {}): Promise<void> {
    this.signal.throwIfAborted();
    try {
      const { sent } = await keepAlive(this.#context, this.id, this.#attemptMs(), o);
      this.#kept(sent);
    } catch (error) {
      if (error instanceof LeaseNotFoundError) {
        this.#end(new LeaseLostError(this.id, error));
      }
      throw error;
    }
  }

  /**
   * Ends the lease; its keys go, those on the shard of the lease before this returns if they are not more than a thousand, the others within seconds. The signal is
   * aborted at once. A lease that has ended by itself is no error.
   */
  async revoke(o: CallOptions = {}): Promise<void> {
    this.#end(new LeaseRevokedError(this.id));
    try {
      await identified(this.#context, { case: "leaseId", value: this.id }, (identity) =>
        new Call(this.#context, `revoke lease ${this.id}`, o, identity).run((e, bounds) => e.lease.revoke({ id: this.id, requestId: identity.message() }, bounds)),
      );
    } catch (error) {
      if (!(error instanceof LeaseNotFoundError)) {
        throw error;
      }
    }
  }

  #attemptMs(): number {
    return Math.min(this.ttlMs / 4 + 1, keepAliveMs);
  }

  /** Notes that a keep-alive was answered which was sent then. */
  #kept(sent: number): void {
    if (this.#life.signal.aborted) {
      return;
    }
    this.#failure = undefined;
    this.#until = Math.max(this.#until, sent + this.ttlMs * (1 - driftShare));
    clearTimeout(this.#expiry);
    this.#expiry = setTimeout(() => void this.remainingMs, Math.min(this.#until - performance.now() + 1, timerMaxMs));
  }

  /** Sees to the next keep-alive, behind one that was sent then. */
  #schedule(sent: number, backoff: Backoff): void {
    this.#timer = setTimeout(() => void this.#prolong(backoff), Math.min(Math.max(sent + jitter(this.ttlMs * keepAliveShare) - performance.now(), 0), timerMaxMs));
  }

  async #prolong(backoff: Backoff): Promise<void> {
    const timeoutMs = this.remainingMs;
    if (timeoutMs === 0) {
      return;
    }
    try {
      const { sent } = await keepAlive(this.#context, this.id, this.#attemptMs(), { signal: this.#life.signal, timeoutMs });
      this.#kept(sent);
      this.#schedule(sent, new Backoff());
    } catch (error) {
      if (error instanceof LeaseNotFoundError) {
        this.#end(new LeaseLostError(this.id, error));
      }
      this.#failure = error;
      if (!this.#life.signal.aborted) {
        this.#timer = setTimeout(() => void this.#prolong(backoff), backoff.next(0));
      }
    }
  }

  /** Ends the life of the lease for its holder; the first reason counts. */
  #end(reason: unknown): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#expiry);
    this.#forget();
    this.#life.abort(reason);
  }
}

/** The longest time of a timer in JavaScript. */
const timerMaxMs = 2 ** 31 - 1;

/** Grants a lease. */
export async function grant(context: LeaseContext, ttlMs: number, o: LeaseOptions): Promise<Lease> {
  const ttl = millis("ttlMs", ttlMs, 1);
  for (let left = grantsMax - 1; ; left--) {
    let sent = 0;
    const { lease } = await identified(context, { case: "grant", value: true }, (identity) => {
      sent = performance.now(); // of the first attempt: it may be the one that the answer is of
      return new Call(context, "grant a lease", o, identity).run((e, bounds) => e.lease.grant({ ttlMs: ttl, requestId: identity.message() }, bounds));
    });
    if (performance.now() - sent <= ttlMs * lateShare) {
      return hold(context, lease, sent, o);
    }
    // An attempt was given up, and if that was the one that granted the lease, little is left of it, or nothing.
    try {
      return await resume(context, lease!.id, o);
    } catch (error) {
      if (!(error instanceof LeaseNotFoundError)) {
        return hold(context, lease, sent, o);
      }
      if (left === 0) {
        throw error;
      }
    }
  }
}

/** Goes on with a lease that was granted before. */
export async function resume(context: LeaseContext, id: bigint, o: LeaseOptions): Promise<Lease> {
  const { sent, lease } = await keepAlive(context, id, keepAliveMs, o);
  return hold(context, lease, sent, o);
}

function hold(context: LeaseContext, lease: LeaseMessage | undefined, sent: number, o: LeaseOptions): Lease {
  context.closed.throwIfAborted();
  return new Lease(context, lease!.id, Number(lease!.ttlMs), sent, o.keepAlive ?? true);
}

/** Prolongs a lease, and returns when the attempt was sent that was answered. */
async function keepAlive(context: LeaseContext, id: bigint, attemptMs: number, o: CallOptions): Promise<{ sent: number; lease: LeaseMessage | undefined }> {
  let sent = 0;
  const call = new Call(context, `keep lease ${id} alive`, o, undefined, attemptMs);
  const { lease } = await call.run((e, bounds) => {
    sent = performance.now();
    return e.lease.keepAlive({ id }, bounds);
  });
  return { sent, lease };
}

/**
 * Makes a write of leases under an identity of the client, so that its attempts apply once. If the cluster has forgotten the session or an id is taken, another write
 * is made: for a lease that is no harm.
 */
async function identified<T>(context: LeaseContext, subject: WriteId["subject"], write: (identity: Identity) => Promise<T>): Promise<T> {
  for (let left = grantsMax - 1; ; left--) {
    try {
      return await write(context.sessions.begin(subject));
    } catch (error) {
      if (left === 0 || !(error instanceof SessionExpiredError || error instanceof LeaseExistsError)) {
        throw error;
      }
    }
  }
}
