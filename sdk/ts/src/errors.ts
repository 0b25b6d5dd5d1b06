/** One try of a call that failed. */
export interface Attempt {
  /** The base URL that was asked. */
  readonly endpoint: string;
  readonly error: unknown;
}

/**
 * The base of every error of the client. One that is no {@link OutcomeUnknownError} says that nothing was applied.
 */
export abstract class RaftkvError extends Error {
  abstract override readonly name: string;
  /** The call and its key, such as `put "a"`. */
  operation = "";
  /** The latest failed attempts, oldest first; the last one is of this error, if it is the error of an attempt. */
  attempts: readonly Attempt[] = [];
}

/** The key does not exist. `get` gives `undefined` instead. */
export class KeyNotFoundError extends RaftkvError {
  override readonly name = "KeyNotFoundError";
  constructor(
    readonly key: string,
    /** The revision of the shard in the state that was read. */
    readonly revision: bigint,
    readonly shard: number,
  ) {
    super("the key does not exist");
  }
}

/** The node asked does not lead the shard. */
export class NotLeaderError extends RaftkvError {
  override readonly name = "NotLeaderError";
  constructor(
    readonly shard: number,
    /** The node that leads as far as the node asked knows; empty during an election. */
    readonly leader: string,
    /** The client address, host:port, of that node; empty when unknown. */
    readonly leaderEndpoint: string,
  ) {
    super(leader === "" ? `shard ${shard} has no leader now` : `shard ${shard} is led by node ${leader} at ${leaderEndpoint}`);
  }
}

/** The shard asked does not serve the key any more. */
export class StaleRouteError extends RaftkvError {
  override readonly name = "StaleRouteError";
  constructor(
    readonly shard: number,
    readonly slot: number,
  ) {
    super(`shard ${shard} does not serve slot ${slot}`);
  }
}

/** A bound was passed. */
export class LimitError extends RaftkvError {
  override readonly name = "LimitError";
  constructor(
    /** The path of the field in the request, or the name of the bound. */
    readonly field: string,
    /** In the unit of the field, as is `actual`. */
    readonly limit: bigint,
    readonly actual: bigint,
  ) {
    super(`${field} is ${actual}, the limit is ${limit}`);
  }
}

/** A queue of the node was full. */
export class OverloadedError extends RaftkvError {
  override readonly name = "OverloadedError";
  constructor(
    /** How long the node asked to wait. */
    readonly retryAfterMs: number,
    field = "",
    limit = 0n,
    actual = 0n,
  ) {
    super("the node is overloaded" + (field === "" ? "" : `: ${field} is at ${actual} of at most ${limit}`));
  }
}

/** The disk of a node is nearly full, so that the shard takes deletes and reads only. The client does not try again by itself. */
export class DiskFullError extends RaftkvError {
  override readonly name = "DiskFullError";
  constructor(
    /** Whose disk it is. */
    readonly node: string,
    readonly shard: number,
    readonly retryAfterMs: number,
  ) {
    super(`the disk of node ${node} is nearly full, so shard ${shard} takes no puts; delete keys or free space on that disk`);
  }
}

/** A request is wrong in itself. */
export class InvalidError extends RaftkvError {
  override readonly name = "InvalidError";
}

/** The keys of a batch or transaction live on several shards. */
export class CrossShardError extends RaftkvError {
  override readonly name = "CrossShardError";
  constructor(
    /** The keys by shard. */
    readonly groups: readonly { readonly shard: number; readonly keys: readonly string[] }[],
  ) {
    super(`this may touch one shard only and touches ${groups.length}; give its keys one {tag}`);
  }
}

/** The condition of a write does not hold. */
export class PreconditionFailedError extends RaftkvError {
  override readonly name = "PreconditionFailedError";
  constructor(
    readonly key: string,
    /** The revision of the last write of the key when the condition was checked; 0 if the key did not exist. */
    readonly current: bigint,
    readonly shard: number,
  ) {
    super("the condition does not hold: the key " + (current === 0n ? "does not exist" : `is at revision ${current}`));
  }
}

/** The shard has forgotten the revision that was asked for. */
export class CompactedError extends RaftkvError {
  override readonly name = "CompactedError";
  constructor(
    readonly revision: bigint,
    /** The oldest revision that the shard knows. */
    readonly oldest: bigint,
    readonly shard: number,
  ) {
    super(`revision ${revision} is forgotten, the oldest known is ${oldest}; ask for that or a later one, or begin the watch anew`);
  }
}

/** The shard has not reached the revision that was asked for: it is of another shard or cluster. */
export class FutureRevisionError extends RaftkvError {
  override readonly name = "FutureRevisionError";
  constructor(
    readonly revision: bigint,
    /** The revision of the shard. */
    readonly current: bigint,
    readonly shard: number,
  ) {
    super(`revision ${revision} is not reached, the shard is at ${current}; a revision is one of the shard that has told it`);
  }
}

/** The identity of a write may have been forgotten by the cluster, so that an attempt with it was refused. */
export class SessionExpiredError extends RaftkvError {
  override readonly name = "SessionExpiredError";
  constructor(
    /** What the client has asked for before it had seen this revision may be forgotten; 0 if it has acknowledged the answer. */
    readonly floor: bigint,
    /** The revision of the shard. */
    readonly revision: bigint,
  ) {
    super(
      floor === 0n
        ? "the client itself has acknowledged the answer to this write, so the cluster has forgotten it; this attempt was not applied"
        : `the cluster may have forgotten what was asked for before revision ${floor}, so a retry cannot be told from a new write`,
    );
  }
}

/** Somebody has resolved the write while it was under way, and was told that it is not applied. It never will be. */
export class FencedError extends RaftkvError {
  override readonly name = "FencedError";
  constructor(readonly shard: number) {
    super("somebody has asked what came of this write and was told that it is not applied, so it never will be");
  }
}

/** A lease does not exist, or has ended. */
export class LeaseNotFoundError extends RaftkvError {
  override readonly name = "LeaseNotFoundError";
  constructor(readonly leaseId: bigint) {
    super(`lease ${leaseId} does not exist or has ended; grant another one`);
  }
}

/** The id under which a lease was to be granted is taken. */
export class LeaseExistsError extends RaftkvError {
  override readonly name = "LeaseExistsError";
  constructor(readonly leaseId: bigint) {
    super(`lease ${leaseId} exists; grant again, under another id`);
  }
}

/** Why the signal of a lease was aborted that its holder has not revoked. The cause is the error of the last keep-alive, if there was one. */
export class LeaseLostError extends RaftkvError {
  override readonly name = "LeaseLostError";
  constructor(
    readonly leaseId: bigint,
    cause?: unknown,
  ) {
    const ended = cause instanceof LeaseNotFoundError;
    super(`lease ${leaseId} is lost: ` + (ended ? "the cluster has ended it" : cause ? "it could not be kept alive in time" : "its time is over"), { cause });
  }
}

/** Why the signal of a lease was aborted that its holder has revoked. */
export class LeaseRevokedError extends RaftkvError {
  override readonly name = "LeaseRevokedError";
  constructor(readonly leaseId: bigint) {
    super(`lease ${leaseId} was revoked by its holder`);
  }
}

/** A replica was not new enough for a stale read and could not ask a majority. */
export class TooStaleError extends RaftkvError {
  override readonly name = "TooStaleError";
  constructor(
    readonly shard: number,
    /** How old its state may have been; 0 if that was not known, or if it lacked what the token names. */
    readonly ageMs: number,
    /** How old it might be; 0 if it lacked what the token names. */
    readonly boundMs: number,
  ) {
    super(`a replica of shard ${shard} was not new enough, and could not ask a majority`);
  }
}

/** A node has not reached a majority of a shard for some time, so that it does not know what it misses. */
export class CutOffError extends RaftkvError {
  override readonly name = "CutOffError";
  constructor(
    readonly shard: number,
    readonly forMs: number,
  ) {
    super(`the node has been cut off from the majority of shard ${shard} for ${forMs} ms`);
  }
}

/** A node could not be reached, or could not execute the operation for now. */
export class UnavailableError extends RaftkvError {
  override readonly name = "UnavailableError";
}

/** The endpoint does not serve this client: wrong address, or missing rights. */
export class RefusedError extends RaftkvError {
  override readonly name = "RefusedError";
}

/** An error of a node for which there is no type of its own. */
export class ServerError extends RaftkvError {
  override readonly name = "ServerError";
  constructor(
    /** The RPC code, such as `internal`. */
    readonly code: string,
    /** The reason of `google.rpc.ErrorInfo`; may be empty. */
    readonly reason: string,
    message: string,
  ) {
    super(reason === "" ? `${code}: ${message}` : `${code} (${reason}): ${message}`);
  }
}

/** The time of the call is over. */
export class TimeoutError extends RaftkvError {
  override readonly name = "TimeoutError";
}

/** The client was closed. */
export class ClosedError extends RaftkvError {
  override readonly name = "ClosedError";
  constructor() {
    super("the client is closed");
  }
}

/** What `resolve` asks by: the identity of a write. It holds for all attempts. */
export interface WriteId {
  /** 16 bytes. */
  readonly clientId: Uint8Array;
  /** Counts the writes of the client. */
  readonly sequence: bigint;
  /** The revision of the shard that the client knew before the write. */
  readonly seen: bigint;
  /** What leads to its shard: a key of the write, the lease that it was to revoke, or that it was to grant one. */
  readonly subject:
    | { readonly case: "key"; readonly value: string }
    | { readonly case: "leaseId"; readonly value: bigint }
    | { readonly case: "grant"; readonly value: boolean };
}

/**
 * A write may or may not have been applied, now or later. The cause is why the client gave up. Ask what came of it with `client.resolve`, or read
 * before you write again.
 */
export class OutcomeUnknownError extends RaftkvError {
  override readonly name = "OutcomeUnknownError";
  constructor(
    cause: unknown,
    /** The identity of the write. */
    readonly write: WriteId,
  ) {
    super(`the outcome is unknown, resolve it or read before you write again: ${messageOf(cause)}`, { cause });
  }
}

/** The text of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Names the call in its error, in the message, too. A `ClosedError` is one for all calls. */
export function finish<E extends RaftkvError>(error: E, operation: string, attempts: readonly Attempt[]): E {
  if (error.operation === "" && !(error instanceof ClosedError)) {
    const told = error.message;
    error.message = `${operation}: ${told}${describe(attempts)}`;
    error.stack = error.stack?.replace(told, () => error.message);
    error.operation = operation;
    error.attempts = attempts;
  }
  return error;
}

/** Tells of attempts if there were several. Those in a row that failed alike are one. */
function describe(attempts: readonly Attempt[]): string {
  if (attempts.length < 2) {
    return "";
  }
  const parts: string[] = [];
  for (let i = 0, times = 0; i < attempts.length; i++) {
    const text = tell(attempts[i]);
    times++;
    if (text !== tell(attempts[i + 1])) {
      parts.push(times > 1 ? `${text} (${times} times)` : text);
      times = 0;
    }
  }
  return `; ${attempts.length} attempts: ${parts.join(", ")}`;
}

function tell(attempt: Attempt | undefined): string {
  return attempt === undefined ? "" : `${attempt.endpoint}: ${messageOf(attempt.error)}`;
}
