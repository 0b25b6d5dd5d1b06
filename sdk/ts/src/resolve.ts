import { Call, type CallContext, type CallOptions } from "./call.js";
import type { OutcomeUnknownError, WriteId } from "./errors.js";
import { Outcome as Kind, type GetOutcomeResponse } from "./gen/raftkv/v1/outcome_pb.js";
import { Identity } from "./session.js";
import { where } from "./write.js";

/** What came of a write. */
export interface Outcome {
  /**
   * - `applied`: the write was applied.
   * - `condition-failed`: its condition did not hold; of a transaction, what stands in `else` was done.
   * - `not-applied`: it was not applied and never will be, whatever attempts of it are still under way. It may be made again.
   * - `forgotten`: nobody can tell any more. It may have been applied.
   */
  readonly kind: "applied" | "condition-failed" | "not-applied" | "forgotten";
  /** The revision that the write has made, or that of its shard if it changed nothing; 0 if it is forgotten. */
  readonly revision: bigint;
  readonly shard: number;
  /** If the condition failed, the revision of the last write of its key then; 0 if the key did not exist. */
  readonly current: bigint;
}

/** Outcomes hold for good, and writes that have shared a request share one. */
const known = new WeakMap<WriteId, Outcome>();

/** Asks what came of a write. */
export async function resolve(context: CallContext, { write, operation }: OutcomeUnknownError, o: CallOptions): Promise<Outcome> {
  const before = known.get(write);
  if (before !== undefined) {
    return before;
  }
  const { clientId, sequence, seen, subject } = write;
  const call = new Call(context, `resolve ${operation}`, o);
  const response = await call.run((e, bounds) => e.kv.getOutcome({ requestId: { clientId, sequence, seen }, subject }, bounds));
  const outcome = outcomeOf(response);
  known.set(write, outcome);
  if (write instanceof Identity) {
    write.end();
  }
  return outcome;
}

function outcomeOf(r: GetOutcomeResponse): Outcome {
  const at = { ...where(r.header), revision: r.revision, current: r.failed?.current ?? 0n };
  switch (r.outcome) {
    case Kind.APPLIED:
      return { kind: "applied", ...at };
    case Kind.CONDITION_FAILED:
      return { kind: "condition-failed", ...at };
    case Kind.NOT_APPLIED:
    case Kind.LEASE_REFUSED:
      return { kind: "not-applied", ...at };
    default: // one of a later version says nothing to this one
      return { kind: "forgotten", ...at };
  }
}
