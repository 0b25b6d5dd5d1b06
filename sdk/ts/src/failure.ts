import { Code, ConnectError } from "@connectrpc/connect";
import { readDetails, type Details, type RawDetail } from "./details.js";
import * as errors from "./errors.js";
import type { CrossShard } from "./gen/raftkv/v1/error_pb.js";
import type { Status } from "./gen/google/rpc/status_pb.js";

/** A failed attempt, judged. It is thrown within the client and never by it. */
export class Failure {
  /** The attempt may have been applied, now or later. */
  readonly unknown: boolean;
  /** The cluster has executed the write, to this end. Like the result of one that was applied, the answer holds for all attempts. */
  readonly decided: boolean;
  /** Another attempt may succeed. */
  readonly retry: boolean;
  /** The endpoint is out of reach, or says that it serves nothing for now. */
  readonly down: boolean;
  /** How long the node asked to wait before the next attempt. */
  readonly afterMs: number;
  /** The reason of a node that serves nothing for now, or has no replica. */
  readonly reason: string;

  constructor(
    readonly error: unknown,
    o: { unknown?: boolean; decided?: boolean; retry?: boolean; down?: boolean; afterMs?: number; reason?: string } = {},
  ) {
    this.unknown = o.unknown ?? false;
    this.decided = o.decided ?? false;
    this.retry = o.retry ?? false;
    this.down = o.down ?? false;
    this.afterMs = o.afterMs ?? 0;
    this.reason = o.reason ?? "";
  }
}

/** Reasons of a node that serves nothing for now: it cannot read its state, is going, or is not part of a cluster yet. */
const servesNothing = ["READ_FAILED", "STOPPING", "FORMING"];

/** Judges the error of one operation on a stream, or in a batch. */
export function judgeStatus(status: Status): Failure {
  const raw = status.details.map((a) => ({ type: a.typeUrl.slice(a.typeUrl.lastIndexOf("/") + 1), value: a.value }));
  return judge(status.code, status.message, readDetails(raw));
}

/** Judges the error of a call, or of a stream as a whole. */
export function judgeCall(error: unknown): Failure {
  if (error instanceof Failure) {
    return error;
  }
  if (neverSent(error)) {
    return new Failure(new errors.UnavailableError(`not sent: ${errors.messageOf(error)}`, { cause: error }), { retry: true, down: true });
  }
  const connect = ConnectError.from(error);
  const details = readDetails(connect.details.filter((d): d is RawDetail => "type" in d));
  if (details.reason === undefined && details.typed === undefined) {
    return judgeForeign(connect);
  }
  return judge(connect.code, connect.rawMessage, details);
}

/** Judges what is not of a node, but of something on the way, or the end of a connection. Only what says that the request itself is wrong counts as not applied. */
function judgeForeign(error: ConnectError): Failure {
  if (error.rawMessage === "HTTP 415") {
    const hint = "this port speaks native gRPC only; use the node's port for clients, which is 300 lower unless configured, or the protocol grpc";
    return new Failure(new errors.RefusedError(`refused by the endpoint: ${hint}`, { cause: error }), { down: true });
  }
  switch (error.code) {
    case Code.InvalidArgument:
    case Code.OutOfRange:
    case Code.FailedPrecondition:
    case Code.AlreadyExists:
    case Code.NotFound:
      return judge(error.code, error.rawMessage, {});
    case Code.Unimplemented:
    case Code.Unauthenticated:
    case Code.PermissionDenied:
      return new Failure(new errors.RefusedError(`refused by the endpoint: ${error.message}`, { cause: error }), { down: true });
    case Code.ResourceExhausted: // a message that is too large for something on the way, and will be again
      return new Failure(new errors.ServerError(Code[error.code], "", error.rawMessage), { unknown: true });
    case Code.DeadlineExceeded:
      return new Failure(new errors.TimeoutError("no answer in time", { cause: error }), { unknown: true, retry: true });
    default:
      return new Failure(new errors.UnavailableError(`connection lost: ${error.message}`, { cause: error }), { unknown: true, retry: true, down: true });
  }
}

/** Says whether no byte has left the client: the connection could not be made. Browsers do not tell. */
function neverSent(error: unknown): boolean {
  for (let e: unknown = error; e instanceof Error; e = e.cause) {
    const code = (e as { code?: unknown }).code;
    if (typeof code === "string" && ["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH"].includes(code)) {
      return true;
    }
  }
  return false;
}

/** Judges an error of a node. Without a detail that says so, nothing counts as not applied. */
function judge(code: Code, message: string, details: Details): Failure {
  const typed = judgeTyped(details);
  if (typed !== undefined) {
    return typed;
  }
  const known = details.reason !== undefined;
  const reason = details.reason ?? "";
  const afterMs = details.retryAfterMs ?? 0;
  const server = new errors.ServerError(Code[code], reason, message);
  switch (code) {
    case Code.InvalidArgument:
    case Code.OutOfRange:
      return new Failure(new errors.InvalidError(`invalid request: ${message}`));
    case Code.FailedPrecondition:
    case Code.NotFound:
    case Code.AlreadyExists:
      return new Failure(server);
    case Code.Unimplemented:
    case Code.Unauthenticated:
    case Code.PermissionDenied:
      return new Failure(new errors.RefusedError(`refused by the endpoint: ${server.message}`, { cause: server }), { reason });
    case Code.ResourceExhausted:
      if (details.retryAfterMs === undefined) {
        return new Failure(server, { unknown: !known, reason });
      }
      return new Failure(new errors.OverloadedError(afterMs), { retry: true, afterMs, reason });
    case Code.Unavailable: {
      const error = new errors.UnavailableError(`unavailable: ${server.message}`, { cause: server });
      return new Failure(error, { unknown: !known, retry: true, down: servesNothing.includes(reason), afterMs, reason });
    }
    default: // deadlines, cancelled, aborted, unknown, internal, data loss
      return new Failure(server, { unknown: !known, retry: code !== Code.DataLoss, afterMs, reason });
  }
}

/** Judges the errors that have a detail of their own. */
function judgeTyped(details: Details): Failure | undefined {
  const { typed, retryAfterMs, reason } = details;
  const again = { retry: true, afterMs: retryAfterMs ?? 0, reason: reason ?? "" };
  switch (typed?.$typeName) {
    case "raftkv.v1.KeyNotFound":
      return new Failure(new errors.KeyNotFoundError(typed.key, typed.revision, typed.shard));
    case "raftkv.v1.NotLeader":
      return new Failure(new errors.NotLeaderError(typed.shard, typed.leaderNodeId, typed.leaderEndpoint), again);
    case "raftkv.v1.StaleRoute":
      return new Failure(new errors.StaleRouteError(typed.shard, typed.slot), again);
    case "raftkv.v1.TooStale":
      return new Failure(new errors.TooStaleError(typed.shard, Number(typed.freshnessMs), Number(typed.maxStalenessMs)), again);
    case "raftkv.v1.CutOff":
      return new Failure(new errors.CutOffError(typed.shard, Number(typed.forMs)), again);
    case "raftkv.v1.LimitExceeded":
      if (retryAfterMs === undefined) {
        return new Failure(new errors.LimitError(typed.field, typed.limit, typed.actual));
      }
      return new Failure(new errors.OverloadedError(retryAfterMs, typed.field, typed.limit, typed.actual), again);
    case "raftkv.v1.DiskFull":
      return new Failure(new errors.DiskFullError(typed.nodeId, typed.shard, retryAfterMs ?? 0));
    case "raftkv.v1.OutcomeUnknown":
      return new Failure(new errors.UnavailableError(`the node does not know the outcome: ${typed.cause}`), { ...again, unknown: true });
    case "raftkv.v1.CrossShard":
      return new Failure(new errors.CrossShardError(groupsOf(typed)));
    case "raftkv.v1.PreconditionFailed":
      return new Failure(new errors.PreconditionFailedError(typed.key, typed.current, typed.shard), { decided: true });
    case "raftkv.v1.Compacted":
      return new Failure(new errors.CompactedError(typed.revision, typed.oldest, typed.shard));
    case "raftkv.v1.FutureRevision":
      return new Failure(new errors.FutureRevisionError(typed.revision, typed.current, typed.shard));
    case "raftkv.v1.SessionExpired":
      return new Failure(new errors.SessionExpiredError(typed.floor, typed.revision));
    case "raftkv.v1.RequestFenced":
      return new Failure(new errors.FencedError(typed.shard), { decided: true });
    case "raftkv.v1.LeaseNotFound":
      // A lease never lives again, and a retry of a write that was applied is told so. So this holds for all attempts.
      return new Failure(new errors.LeaseNotFoundError(typed.leaseId), { decided: true });
    case "raftkv.v1.LeaseExists":
      return new Failure(new errors.LeaseExistsError(typed.leaseId), { decided: true });
    default:
      return undefined;
  }
}

function groupsOf(detail: CrossShard): { shard: number; keys: string[] }[] {
  return detail.groups.map(({ shard, keys }) => ({ shard, keys }));
}
