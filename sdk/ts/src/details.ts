import { fromBinary, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import * as pb from "./gen/raftkv/v1/error_pb.js";

/** A detail of an error, as it came. */
export interface RawDetail {
  /** The full name of its message. */
  readonly type: string;
  readonly value: Uint8Array;
}

/** What the details of an error say. */
export interface Details {
  /** The reason of `google.rpc.ErrorInfo`; undefined if there is none, and the error may be of anything between the client and the node. */
  readonly reason?: string;
  /** How long `google.rpc.RetryInfo` asks to wait; undefined if there is none. */
  readonly retryAfterMs?: number;
  /** The one of raftkv. */
  readonly typed?: TypedDetail;
}

const schemas = [
  pb.KeyNotFoundSchema,
  pb.NotLeaderSchema,
  pb.StaleRouteSchema,
  pb.LimitExceededSchema,
  pb.OutcomeUnknownSchema,
  pb.CrossShardSchema,
  pb.SessionExpiredSchema,
  pb.PreconditionFailedSchema,
  pb.RequestFencedSchema,
  pb.LeaseNotFoundSchema,
  pb.LeaseExistsSchema,
  pb.DiskFullSchema,
  pb.CompactedSchema,
  pb.FutureRevisionSchema,
  pb.CutOffSchema,
  pb.TooStaleSchema,
] as const satisfies DescMessage[];

/** A detail that the client knows; `$typeName` tells them apart. */
export type TypedDetail = MessageShape<(typeof schemas)[number]>;

/** Reads the details that the client knows. Others, and those that cannot be read, are of a later version: the code still tells. */
export function readDetails(raw: Iterable<RawDetail>): Details {
  let details: Details = {};
  for (const { type, value } of raw) {
    try {
      if (type === "google.rpc.ErrorInfo") {
        details = { ...details, reason: readReason(value) };
      } else if (type === "google.rpc.RetryInfo") {
        details = { ...details, retryAfterMs: readRetryAfter(value) };
      } else {
        const schema = schemas.find((s) => s.typeName === type);
        details = schema ? { ...details, typed: fromBinary<DescMessage>(schema, value) as TypedDetail } : details;
      }
    } catch {
      continue;
    }
  }
  return details;
}

// ErrorInfo and RetryInfo are not among the generated messages, since no contract imports them. Two fields of each are of use.

function readReason(bytes: Uint8Array): string {
  let reason = "";
  eachField(bytes, (field, reader, skip) => (field === 1 ? (reason = reader.string()) : skip()));
  return reason;
}

function readRetryAfter(bytes: Uint8Array): number {
  let ms = 0;
  eachField(bytes, (field, reader, skip) => {
    if (field !== 1) {
      return skip();
    }
    // A google.protobuf.Duration: seconds and nanoseconds.
    eachField(reader.bytes(), (part, r, skipPart) => {
      ms += part === 1 ? Number(r.int64()) * 1000 : part === 2 ? r.int32() / 1e6 : 0;
      return part > 2 ? skipPart() : undefined;
    });
  });
  return ms;
}

function eachField(bytes: Uint8Array, read: (field: number, reader: BinaryReader, skip: () => void) => unknown): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    read(field, reader, () => reader.skip(wireType));
  }
}
