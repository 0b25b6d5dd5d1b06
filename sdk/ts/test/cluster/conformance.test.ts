import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type BatchOperation,
  type Client,
  type Compare,
  CrossShardError,
  FutureRevisionError,
  InvalidError,
  type Item,
  LeaseNotFoundError,
  LimitError,
  PreconditionFailedError,
  type PutOptions,
  ServerError,
  type TxnOperation,
  createClient,
} from "../../src/index.js";
import { connectNode } from "../../src/node.js";
import { connectWeb, grpcWeb } from "../../src/web.js";
import { basePort, startDemo } from "../raftkv.js";

/** A JSON object of conformance/cases.json; the README beside it says what the fields are. */
type Fields = Record<string, any>;

interface Case {
  name: string;
  steps: { do: Record<string, Fields>; want: Fields; save?: string }[];
}

const cases = JSON.parse(readFileSync(fileURLToPath(new URL("../../../../conformance/cases.json", import.meta.url)), "utf8")) as Case[];

/** What an operation answers, and the revision or lease that can be saved. */
type Answer = [answer: Fields, saved?: bigint];

const reasons = [
  [PreconditionFailedError, "PRECONDITION_FAILED"],
  [FutureRevisionError, "FUTURE_REVISION"],
  [LeaseNotFoundError, "LEASE_NOT_FOUND"],
  [CrossShardError, "CROSS_SHARD"],
  [LimitError, "LIMIT_EXCEEDED"],
  [InvalidError, "INVALID"],
] as const;

/** The reason that an error stands for. */
function reasonOf(error: unknown): string {
  for (const [type, reason] of reasons) {
    if (error instanceof type) {
      return reason;
    }
  }
  if (error instanceof ServerError) {
    return error.reason;
  }
  throw error;
}

function valueOf(a: Fields): Uint8Array | string {
  return "value64" in a ? new Uint8Array(Buffer.from(a["value64"], "base64")) : a["value"];
}

/** A value as answers have it: text, or base64 of bytes that are none. */
function found(item: Item): Fields {
  try {
    return { value: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(item.value), version: Number(item.version) };
  } catch {
    return { value64: Buffer.from(item.value).toString("base64"), version: Number(item.version) };
  }
}

function conditions(a: Fields): PutOptions {
  return {
    ...(a["ifAbsent"] && { ifExists: false }),
    ...(a["ifExists"] && { ifExists: true }),
    ...(a["ifRevision"] !== undefined && { ifRevision: BigInt(a["ifRevision"]) }),
  };
}

function operation(o: Record<string, Fields>): TxnOperation {
  const [[kind, a]] = Object.entries(o) as [[string, Fields]];
  return kind === "put" ? { put: a["key"], value: valueOf(a) } : kind === "get" ? { get: a["key"] } : { delete: a["key"] };
}

const operations: Record<string, (client: Client, a: Fields) => Promise<Answer>> = {
  async put(client, a) {
    const r = await client.put(a["key"], valueOf(a), { ...conditions(a), ttlMs: a["ttlMs"], lease: a["lease"] === undefined ? undefined : { id: a["lease"] } });
    return [{ version: Number(r.version) }, r.revision];
  },

  async get(client, a) {
    const o = { ...(a["revision"] !== undefined && { revision: BigInt(a["revision"]) }), ...(a["stale"] && { stale: { token: client.token() } }) };
    const item = await client.get(a["key"], o);
    return item ? [found(item), item.modRevision] : [{ error: "KEY_NOT_FOUND" }];
  },

  async delete(client, a) {
    const r = await client.delete(a["key"], conditions(a));
    return [{ deleted: r.deleted }, r.revision];
  },

  async scan(client, a) {
    const items = [];
    for await (const item of client.scan({ prefix: a["prefix"] }, { limit: a["limit"], reverse: a["reverse"] })) {
      items.push([item.key, item.text()]);
    }
    return [{ items }];
  },

  async batch(client, a) {
    const r = await client.batch(a["operations"].map(operation) as BatchOperation[]);
    return [{ applied: r.results.length }, r.revision];
  },

  async txn(client, a) {
    const compares = (a["if"] ?? []).map((c: Fields) => ("revision" in c ? { ...c, revision: BigInt(c["revision"]) } : c)) as Compare[];
    const r = await client.txn({ if: compares, then: (a["then"] ?? []).map(operation), else: (a["else"] ?? []).map(operation) });
    const done = (r.succeeded ? a["then"] : a["else"]) ?? [];
    const gets = r.results.filter((_, i) => "get" in done[i]).map((result) => ("item" in result ? (result.item?.text() ?? null) : null));
    return [{ succeeded: r.succeeded, gets }, r.revision];
  },

  async watch(client, a) {
    const events = [];
    const o = { initial: a["initial"], ...(a["from"] !== undefined && { fromRevision: BigInt(a["from"]) }) };
    for await (const e of client.watch({ prefix: a["prefix"] }, o)) {
      if (e.type !== "put" && e.type !== "delete") {
        continue;
      }
      events.push([e.initial ? "initial" : e.type, e.item.key, e.item.text()]);
      if (events.length === a["count"]) {
        break;
      }
    }
    return [{ events }];
  },

  async grant(client, a) {
    const lease = await client.grant(a["ttlMs"], { keepAlive: false });
    return [{}, lease.id];
  },

  async revoke(client, a) {
    await (await client.resumeLease(a["lease"], { keepAlive: false })).revoke(); // a lease of another holder, perhaps
    return [{}];
  },
};

/** Puts in what stands for something else: prefixes of keys, saved numbers, long texts. */
function fill(v: any, prefix: string, saved: Map<string, bigint>): any {
  if (Array.isArray(v)) {
    return v.map((e) => fill(e, prefix, saved));
  }
  if (typeof v === "string" && v.startsWith("$")) {
    return saved.get(v.slice(1)) ?? v;
  }
  if (typeof v !== "object" || v === null) {
    return v;
  }
  if ("repeat" in v) {
    return v.repeat.repeat(v.times);
  }
  const filled = Object.entries(v).map(([name, field]) => {
    const value = fill(field, prefix, saved);
    return [name, name === "key" || name === "prefix" ? prefix + value : value];
  });
  return Object.fromEntries(filled);
}

let demo: Awaited<ReturnType<typeof startDemo>>;
beforeAll(async () => {
  demo = await startDemo(basePort + 40, "--shards", "4");
});
afterAll(() => demo?.stop());

describe.each([
  ["Connect over HTTP/2", connectNode()],
  ["gRPC", connectNode({ protocol: "grpc" })],
  ["Connect by fetch", connectWeb()],
  ["gRPC-Web by fetch", grpcWeb()],
])("%s", (name, connect) => {
  let client: Client;
  beforeAll(() => {
    client = createClient({ endpoints: demo.endpoints, connect });
  });
  afterAll(() => client.close());

  test.each(cases.map((c, i) => [c.name, c, i] as const))("%s", async (_, { steps }, i) => {
    const saved = new Map<string, bigint>();
    for (const [n, step] of steps.entries()) {
      const [[kind, a]] = Object.entries(step.do) as [[string, Fields]];
      const prefix = a["spread"] ? "" : `{${name}-${i}}/`;
      let answer: Answer;
      try {
        answer = await operations[kind]!(client, fill(a, prefix, saved));
      } catch (error) {
        answer = [{ error: reasonOf(error) }];
      }
      const bare = JSON.parse(JSON.stringify(answer[0]).replaceAll(`"${prefix}`, '"')) as Fields;
      expect(bare, `step ${n}: ${kind} ${JSON.stringify(a)}`).toEqual(step.want);
      if (step.save !== undefined) {
        saved.set(step.save, answer[1]!);
      }
    }
  });
});
