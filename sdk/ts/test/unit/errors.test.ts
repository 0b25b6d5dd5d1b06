import { create, toBinary, type DescMessage, type MessageInitShape } from "@bufbuild/protobuf";
import { AnySchema, DurationSchema, anyPack } from "@bufbuild/protobuf/wkt";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { StatusSchema } from "../../src/gen/google/rpc/status_pb.js";
import * as pb from "../../src/gen/raftkv/v1/error_pb.js";
import { judgeCall, judgeStatus } from "../../src/failure.js";
import * as errors from "../../src/index.js";

interface Row {
  code: Code;
  reason?: string;
  detail?: [DescMessage, object];
  retryMs?: number;
  is: new (...args: never[]) => Error;
  like?: object;
  unknown?: boolean;
  decided?: boolean;
  retry?: boolean;
}

function detail<D extends DescMessage>(schema: D, value: MessageInitShape<D>): [DescMessage, object] {
  return [schema, value as object];
}

// The table of the server (service/errors.go), and what comes of other things.
const rows: Record<string, Row> = {
  OUTCOME_UNKNOWN: { code: Code.Unknown, detail: detail(pb.OutcomeUnknownSchema, { cause: "x" }), is: errors.UnavailableError, unknown: true, retry: true },
  KEY_NOT_FOUND: { code: Code.NotFound, detail: detail(pb.KeyNotFoundSchema, { key: "a", revision: 7n, shard: 1 }), is: errors.KeyNotFoundError, like: { key: "a", revision: 7n, shard: 1 } },
  CUT_OFF: { code: Code.Unavailable, detail: detail(pb.CutOffSchema, { shard: 1, forMs: 5n }), is: errors.CutOffError, like: { shard: 1, forMs: 5 }, retry: true },
  TOO_STALE: { code: Code.Unavailable, detail: detail(pb.TooStaleSchema, { shard: 1, freshnessMs: 9n, maxStalenessMs: 5n }), is: errors.TooStaleError, like: { ageMs: 9, boundMs: 5 }, retry: true },
  NOT_LEADER: {
    code: Code.Unavailable,
    detail: detail(pb.NotLeaderSchema, { shard: 1, leaderNodeId: "n", leaderEndpoint: "h:1" }),
    is: errors.NotLeaderError,
    like: { shard: 1, leader: "n", leaderEndpoint: "h:1" },
    retry: true,
  },
  STALE_ROUTE: { code: Code.Unavailable, detail: detail(pb.StaleRouteSchema, { shard: 1, slot: 3 }), is: errors.StaleRouteError, like: { shard: 1, slot: 3 }, retry: true },
  STOPPING: { code: Code.Unavailable, retryMs: 100, is: errors.UnavailableError, retry: true },
  TIMEOUT: { code: Code.Unavailable, retryMs: 100, is: errors.UnavailableError, retry: true },
  OVERLOADED: { code: Code.ResourceExhausted, detail: detail(pb.LimitExceededSchema, { field: "q", limit: 1n, actual: 2n }), retryMs: 20, is: errors.OverloadedError, like: { retryAfterMs: 20 }, retry: true },
  DISK_FULL: { code: Code.ResourceExhausted, detail: detail(pb.DiskFullSchema, { nodeId: "n", shard: 1 }), retryMs: 1500, is: errors.DiskFullError, like: { node: "n", shard: 1, retryAfterMs: 1500 } },
  REQUEST_TOO_LARGE: { code: Code.ResourceExhausted, detail: detail(pb.LimitExceededSchema, { field: "request", limit: 1n, actual: 2n }), is: errors.LimitError, like: { field: "request", limit: 1n, actual: 2n } },
  LIMIT_EXCEEDED: { code: Code.InvalidArgument, detail: detail(pb.LimitExceededSchema, { field: "value", limit: 1n, actual: 2n }), is: errors.LimitError },
  INVALID: { code: Code.InvalidArgument, is: errors.InvalidError },
  CROSS_SHARD: { code: Code.FailedPrecondition, detail: detail(pb.CrossShardSchema, { groups: [{ shard: 2, keys: ["a"] }] }), is: errors.CrossShardError, like: { groups: [{ shard: 2, keys: ["a"] }] } },
  SESSION_EXPIRED: { code: Code.FailedPrecondition, detail: detail(pb.SessionExpiredSchema, { floor: 1n, revision: 2n }), is: errors.SessionExpiredError, like: { floor: 1n, revision: 2n } },
  PRECONDITION_FAILED: { code: Code.FailedPrecondition, detail: detail(pb.PreconditionFailedSchema, { key: "a", current: 3n, shard: 1 }), is: errors.PreconditionFailedError, like: { current: 3n }, decided: true },
  REQUEST_FENCED: { code: Code.FailedPrecondition, detail: detail(pb.RequestFencedSchema, { shard: 1 }), is: errors.FencedError, like: { shard: 1 }, decided: true },
  COMPACTED: { code: Code.OutOfRange, detail: detail(pb.CompactedSchema, { revision: 1n, oldest: 5n, shard: 1 }), is: errors.CompactedError, like: { revision: 1n, oldest: 5n } },
  FUTURE_REVISION: { code: Code.OutOfRange, detail: detail(pb.FutureRevisionSchema, { revision: 9n, current: 5n, shard: 1 }), is: errors.FutureRevisionError, like: { revision: 9n, current: 5n } },
  LEASE_NOT_FOUND: { code: Code.FailedPrecondition, detail: detail(pb.LeaseNotFoundSchema, { leaseId: 4n }), is: errors.LeaseNotFoundError, like: { leaseId: 4n }, decided: true },
  LEASE_EXISTS: { code: Code.FailedPrecondition, detail: detail(pb.LeaseExistsSchema, { leaseId: 4n }), is: errors.LeaseExistsError, like: { leaseId: 4n }, decided: true },
  CROSS_ORIGIN: { code: Code.PermissionDenied, is: errors.RefusedError },
  READ_TIMEOUT: { code: Code.DeadlineExceeded, is: errors.ServerError, like: { code: "DeadlineExceeded", reason: "READ_TIMEOUT" }, retry: true },
  INTERNAL: { code: Code.Unknown, detail: detail(pb.OutcomeUnknownSchema, { cause: "x" }), is: errors.UnavailableError, unknown: true, retry: true },
};

function info(reason: string): Uint8Array {
  return new BinaryWriter().tag(1, 2).string(reason).tag(2, 2).string("raftkv").finish();
}

function retryInfo(ms: number): Uint8Array {
  const delay = toBinary(DurationSchema, create(DurationSchema, { seconds: BigInt(Math.floor(ms / 1000)), nanos: (ms % 1000) * 1e6 }));
  return new BinaryWriter().tag(1, 2).bytes(delay).finish();
}

describe.each(Object.entries(rows))("%s", (reason, row) => {
  const details = [
    create(AnySchema, { typeUrl: "type.googleapis.com/google.rpc.ErrorInfo", value: info(reason) }),
    ...(row.detail ? [anyPack(row.detail[0], create(row.detail[0], row.detail[1] as never))] : []),
    ...(row.retryMs ? [create(AnySchema, { typeUrl: "type.googleapis.com/google.rpc.RetryInfo", value: retryInfo(row.retryMs) })] : []),
    create(AnySchema, { typeUrl: "type.googleapis.com/of.a.later.Version", value: new Uint8Array([255]) }),
  ];
  const call = new ConnectError("text", row.code);
  call.details = details.map((d) => ({ type: d.typeUrl.slice(d.typeUrl.lastIndexOf("/") + 1), value: d.value }));
  const status = create(StatusSchema, { code: row.code, message: "text", details });

  test.each([
    ["of a call", () => judgeCall(call)],
    ["of an operation on a stream", () => judgeStatus(status)],
  ])("%s", (_, judge) => {
    const failure = judge();
    expect(failure.error).toBeInstanceOf(row.is);
    expect(failure.error).toMatchObject(row.like ?? {});
    expect(failure).toMatchObject({ unknown: row.unknown ?? false, decided: row.decided ?? false, retry: row.retry ?? false, afterMs: row.retry ? (row.retryMs ?? 0) : 0 });
  });
});

describe("what is not of a node", () => {
  test.each([
    ["a lost connection", new TypeError("Failed to fetch"), errors.UnavailableError, { unknown: true, retry: true, down: true }],
    ["a proxy without an upstream", new ConnectError("HTTP 503", Code.Unavailable), errors.UnavailableError, { unknown: true, retry: true, down: true }],
    ["a message that is too large for a proxy", new ConnectError("too large", Code.ResourceExhausted), errors.ServerError, { unknown: true, retry: false, down: false }],
    ["a deadline of the transport", new ConnectError("late", Code.DeadlineExceeded), errors.TimeoutError, { unknown: true, retry: true, down: false }],
    ["a server that is no node", new ConnectError("HTTP 404", Code.Unimplemented), errors.RefusedError, { unknown: false, retry: false }],
    ["a port for native gRPC", new ConnectError("HTTP 415", Code.Unknown), errors.RefusedError, { unknown: false, retry: false, error: { message: expect.stringContaining("300 lower") } }],
    ["a request that is wrong", new ConnectError("no", Code.InvalidArgument), errors.InvalidError, { unknown: false, retry: false }],
    ["a refused connection", new ConnectError("no", Code.Unavailable, undefined, undefined, Object.assign(new Error(), { code: "ECONNREFUSED" })), errors.UnavailableError, { unknown: false, retry: true, down: true }],
  ] as const)("%s", (_, error, type, like) => {
    const failure = judgeCall(error);
    expect(failure.error).toBeInstanceOf(type);
    expect(failure).toMatchObject(like);
  });
});

test("every error is named, and a base for all", () => {
  const types = Object.entries(errors).filter(([name, value]) => name.endsWith("Error") && name !== "RaftkvError" && typeof value === "function");
  expect(types.length).toBeGreaterThan(20);
  for (const [name, type] of types) {
    const error = new (type as new (...args: unknown[]) => errors.RaftkvError)([], "");
    expect(error).toBeInstanceOf(errors.RaftkvError);
    expect(error.name).toBe(name);
  }
});

test("a session that is forgotten says why", () => {
  expect(new errors.SessionExpiredError(5n, 8n).message).toContain("before revision 5");
  expect(new errors.SessionExpiredError(0n, 8n).message).toContain("the client itself has acknowledged the answer");
});
