import { createRouterTransport } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { Client } from "../../src/client.js";
import type { ClientOptions } from "../../src/index.js";
import { CrossShardSchema } from "../../src/gen/raftkv/v1/error_pb.js";
import { KvService, type BatchRequest, type ExecRequest } from "../../src/gen/raftkv/v1/kv_service_pb.js";
import { refuse } from "../../src/testing/refuse.js";
import { TestCluster, type TestCall } from "../../src/testing/index.js";
import { until } from "../collect.js";

function recorded(o: { duplex: boolean }) {
  const cluster = new TestCluster(o);
  const calls: TestCall[] = [];
  cluster.faults = (call) => (calls.push(call), undefined);
  return { cluster, client: cluster.client(), calls, methods: () => calls.map((c) => c.method) };
}

test("concurrent puts and deletes share requests where there are no streams", async () => {
  const { client, methods } = recorded({ duplex: false });
  const results = await Promise.all([client.put("a", "1"), client.put("b", "2", { ttlMs: 1000 }), client.delete("c")]);
  expect(results).toMatchObject([{ version: 1n, revision: 1n, shard: 1 }, { version: 1n, revision: 1n }, { deleted: false }]);
  expect(methods()).toEqual(["batch"]);
  expect((await client.get("a"))!.text()).toBe("1");
  expect((await client.get("b"))!.ttlMs).toBe(1000);
});

test("a single write is a request of its own, and so is one with a condition, a signal, a timeout or previous", async () => {
  const { client, methods } = recorded({ duplex: false });
  await client.put("a", "1");
  const { signal } = new AbortController();
  await Promise.all([client.put("a", "", { ifExists: true }), client.put("b", "", { signal }), client.delete("c", { previous: true }), client.put("d", "", { timeoutMs: 5000 })]);
  expect(methods().sort()).toEqual(["delete", "put", "put", "put", "put"]);
});

test("a request has each key once, and writes gather while requests are under way", async () => {
  const { client, methods } = recorded({ duplex: false });
  const versions = await Promise.all(Array.from({ length: 10 }, () => client.put("a", "x")));
  expect(versions.map((v) => v.version).sort()).toHaveLength(10);
  const before = methods().length;
  await Promise.all(Array.from({ length: 5000 }, (_, i) => client.put(`k${i}`, "x")));
  expect(methods().length - before).toBeLessThanOrEqual(6);
});

test("one write at fault does not spoil the others of its request", async () => {
  const { client } = recorded({ duplex: false });
  const [a, b, c] = await Promise.allSettled([client.put("a", ""), client.put("b", "", { lease: { id: 9n } }), client.delete("x".repeat(5000))]);
  expect(a).toMatchObject({ status: "fulfilled", value: { version: 1n } });
  expect(b).toMatchObject({ reason: { name: "LeaseNotFoundError", operation: 'put "b"' } });
  expect(c).toMatchObject({ reason: { name: "InvalidError" } });
});

test("writes of a request whose outcome is unknown share it, and what resolves it", async () => {
  const cluster = new TestCluster({ duplex: false });
  const client = cluster.client({ timeoutMs: 600 });
  cluster.faults = ({ method }) => (method === "batch" ? "lose" : undefined);
  const [a, b] = await Promise.all(["a", "b"].map((key) => client.put(key, "").catch((e: unknown) => e)));
  expect(a).toMatchObject({ name: "OutcomeUnknownError", operation: 'batch of 2 from "a"' });
  expect(b).toMatchObject({ name: "OutcomeUnknownError" });
  cluster.faults = undefined;
  expect(await client.resolve(a as never)).toMatchObject({ kind: "applied", revision: 1n });
  expect(await client.resolve(b as never)).toMatchObject({ kind: "applied", revision: 1n });
});

/** A node that only takes what `answer` does. */
function node(routes: Parameters<typeof createRouterTransport>[0], o: Partial<ClientOptions> & { duplex?: boolean } = {}): Client {
  return new Client({ endpoints: ["node"], ...o }, () => ({ transport: createRouterTransport(routes), duplex: o.duplex ?? false }));
}

test("writes of several shards go again shard by shard", async () => {
  const batches: string[][] = [];
  const client = node(({ service }) =>
    service(KvService, {
      batch: ({ operations }: BatchRequest) => {
        const keys = operations.map((o) => o.operation.value!.key);
        const groups = [1, 2, 3].map((shard) => ({ shard, keys: keys.filter((key) => key.startsWith(String(shard))) })).filter((g) => g.keys.length > 0);
        batches.push(keys);
        if (groups.length > 1) {
          throw refuse(9, CrossShardSchema, { groups });
        }
        return { header: { shard: groups[0]!.shard, revision: 7n }, results: keys.map(() => ({ result: { case: "put", value: { version: 1n } } })) };
      },
      put: ({ key }) => (batches.push([key]), { header: { shard: Number(key[0]), revision: 5n }, version: 1n }),
    }),
  );
  const results = await Promise.all(["1a", "2a", "1b", "3", "2b"].map((key) => client.put(key, "")));
  expect(results.map((r) => r.shard)).toEqual([1, 2, 1, 3, 2]);
  expect(batches).toEqual([["1a", "2a", "1b", "3", "2b"], ["1a", "1b"], ["2a", "2b"], ["3"]]);
});

test("operations share messages of a stream, and gather while two are under way", async () => {
  const messages: ExecRequest[] = [];
  let release = () => {};
  const gate = new Promise<void>((resolve) => (release = resolve));
  const client = node(
    ({ service }) =>
      service(KvService, {
        put: () => ({ version: 2n, header: { shard: 1 } }),
        async *exec(requests) {
          let more = () => {};
          void (async () => {
            for await (const request of requests) {
              messages.push(request);
              more();
            }
          })();
          await gate;
          for (let i = 0; ; i++) {
            while (messages[i] === undefined) {
              await new Promise<void>((resolve) => (more = resolve));
            }
            yield { results: messages[i]!.operations.map(({ id }) => ({ id, result: { case: "put" as const, value: { version: 1n, header: { shard: 1 } } } })) };
          }
        },
      }),
    { duplex: true },
  );
  const all = [client.put("1", "")];
  await until(() => messages.length === 1);
  all.push(...Array.from({ length: 10 }, (_, i) => client.put(`2/${i}`, "")));
  await until(() => messages.length === 2);
  all.push(...Array.from({ length: 1500 }, (_, i) => client.put(`3/${i}`, "")), ...Array.from({ length: 3 }, (_, i) => client.put(`4/${i}`, new Uint8Array(300_000))));
  expect(await client.put("large", new Uint8Array(600_000))).toMatchObject({ version: 2n }); // a call of its own
  release();
  await Promise.all(all);
  expect(messages.map((m) => m.operations.length)).toEqual([1, 10, 1024, 477, 1, 1]);
  expect(messages[0]!.timeoutMs).toBeGreaterThan(0);
  client.close();
});

test("what has not been sent when its stream breaks is not unknown", async () => {
  let streams = 0;
  const client = node(
    ({ service }) =>
      service(KvService, {
        async *exec(requests) {
          streams++;
          for await (const { operations } of requests) {
            if (streams === 1) {
              throw new Error("broken");
            }
            yield { results: operations.map(({ id }) => ({ id, result: { case: "put" as const, value: { version: BigInt(streams), header: { shard: 1 } } } })) };
          }
        },
      }),
    { duplex: true },
  );
  expect(await client.put("a", "")).toMatchObject({ version: 2n });
  client.close();
});
