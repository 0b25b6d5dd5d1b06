export type { CallOptions } from "./call.js";
export type { Client, ClientOptions, GetOptions } from "./client.js";
export type { Connection, Connector } from "./connection.js";
export {
  ClosedError,
  CompactedError,
  CrossShardError,
  CutOffError,
  DiskFullError,
  FencedError,
  FutureRevisionError,
  InvalidError,
  KeyNotFoundError,
  LeaseExistsError,
  LeaseLostError,
  LeaseNotFoundError,
  LeaseRevokedError,
  LimitError,
  NotLeaderError,
  OutcomeUnknownError,
  OverloadedError,
  PreconditionFailedError,
  RaftkvError,
  RefusedError,
  ServerError,
  SessionExpiredError,
  StaleRouteError,
  TimeoutError,
  TooStaleError,
  UnavailableError,
  type Attempt,
  type WriteId,
} from "./errors.js";
export { json, type Item, type Value } from "./item.js";
export type { Lease, LeaseOptions } from "./lease.js";
export type { ListOptions, Page, Range, ReadOptions, ScanOptions, Stale } from "./range.js";
export type { Outcome } from "./resolve.js";
export type { Compare, GetResult, Txn, TxnOperation, TxnResult } from "./txn.js";
export type { Change, InitialDone, Progress, Watchable, WatchEvent, WatchOptions } from "./watch.js";
export type {
  BatchOperation,
  BatchResult,
  Condition,
  DeleteOperation,
  DeleteOptions,
  DeleteResult,
  Life,
  PutOperation,
  PutOptions,
  PutResult,
  WriteResult,
} from "./write.js";
