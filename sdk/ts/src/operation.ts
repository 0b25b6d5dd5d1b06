import { Code, ConnectError, type Client } from "@connectrpc/connect";
import type { ExecOperation, ExecResult, KvService } from "./gen/raftkv/v1/kv_service_pb.js";

/** An operation that `Exec` can carry, as its message. */
export type Operation = Exclude<ExecOperation["operation"], { case: undefined }>;

/** The response of an operation, as its message. */
export type Response = Exclude<ExecResult["result"], { case: undefined | "error" }>;

/** What bounds an attempt. */
export interface Bounds {
  /** Ends with the attempt. */
  readonly signal: AbortSignal;
  /** When it ends, in milliseconds from now. A node that is told leaves time for its answer, but not on an `Exec` stream. */
  readonly timeoutMs: number;
}

/** What an attempt leaves of its caller's time for the answer: the node knows whether a write was applied, and the caller that gives up first does not. */
export function answerMs(ms: number): number {
  return Math.min(250, Math.max(ms, 0) / 4);
}

/** Executes an operation as a call of its own. */
export async function callAlone(kv: Client<typeof KvService>, o: Operation, bounds: Bounds): Promise<Response> {
  switch (o.case) {
    case "get":
      return { case: o.case, value: await kv.get(o.value, bounds) };
    case "put":
      return { case: o.case, value: await kv.put(o.value, bounds) };
    case "delete":
      return { case: o.case, value: await kv.delete(o.value, bounds) };
    case "batch":
      return { case: o.case, value: await kv.batch(o.value, bounds) };
    case "txn":
      return { case: o.case, value: await kv.txn(o.value, bounds) };
  }
}

/** About how many bytes an operation takes in a message. */
export function sizeOf(o: Operation): number {
  const each = 96;
  switch (o.case) {
    case "put":
      return each + o.value.key.length + o.value.value.length;
    case "batch":
      return o.value.operations.reduce((n, { operation: w }) => n + each + (w.value?.key.length ?? 0) + (w.case === "put" ? w.value.value.length : 0), each);
    case "txn": {
      const writes = [...o.value.then, ...o.value.else].map(({ operation: w }) => (w.case === "put" ? w.value.value.length : 0));
      const compares = o.value.compare.map(({ condition: c }) => (c.case === "value" ? c.value.length : 0));
      return [...writes, ...compares].reduce((n, bytes) => n + each + bytes, each);
    }
    default:
      return each + o.value.key.length;
  }
}

/** The error of an answer of another kind than the operation: of a broken node, so nothing can be said about a write. */
export function mixedUp(): ConnectError {
  return new ConnectError("the node answered something else than it was asked", Code.Internal);
}
