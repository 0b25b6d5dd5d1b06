import type { Interceptor } from "@connectrpc/connect";
import { createRouterTransport } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { Client } from "../../src/client.js";
import { ClosedError, NotLeaderError, OutcomeUnknownError, TimeoutError } from "../../src/index.js";
import type { PutRequest } from "../../src/gen/raftkv/v1/kv_service_pb.js";
import { KvService } from "../../src/gen/raftkv/v1/kv_service_pb.js";
import type { RequestId } from "../../src/gen/raftkv/v1/request_id_pb.js";
import { SessionExpiredSchema } from "../../src/gen/raftkv/v1/error_pb.js";
import { refuse } from "../../src/testing/refuse.js";
import { TestCluster, type Fault } from "../../src/testing/index.js";
import { until } from "../collect.js";

/** Faults of the calls of a method, one after the other; then none. */
function inTurn(cluster: TestCluster, method: string, ...faults: Fault[]): void {
  cluster.faults = (call) => (call.method === method ? faults.shift() : undefined);
}

describe.each([{ duplex: true }, { duplex: false }])("with $duplex streams", (o) => {
  const open = (timeoutMs = 10_000) => {
    const cluster = new TestCluster(o);
    return { cluster, client: cluster.client({ timeoutMs }) };
  };

  test("a write whose answer is lost is retried, and applied once", async () => {
    const { cluster, client } = open();
    inTurn(cluster, "put", "lose", "drop", "not-leader", "lose");
    expect(await client.put("a", "1", { previous: true })).toMatchObject({ version: 1n, revision: 1n });
    inTurn(cluster, "delete", "lose", "lose");
    expect(await client.delete("a", { previous: true })).toMatchObject({ deleted: true });
    inTurn(cluster, "txn", "lose");
    expect(await client.txn({ if: [{ key: "a", exists: false }], then: [{ put: "a", value: "" }] })).toMatchObject({ succeeded: true });
    inTurn(cluster, "batch", "lose");
    expect((await client.batch([{ put: "a", value: "" }])).results).toMatchObject([{ version: 2n }]);
    inTurn(cluster, "grant", "lose");
    const lease = await client.grant(10_000);
    inTurn(cluster, "revoke", "lose");
    await lease.revoke();
  });

  test("a failed condition tells of all attempts", async () => {
    const { cluster, client } = open();
    await client.put("a", "1");
    inTurn(cluster, "put", "lose");
    await expect(client.put("a", "2", { ifExists: false })).rejects.toMatchObject({ name: "PreconditionFailedError", current: 1n });
  });

  test("reads are retried", async () => {
    const { cluster, client } = open();
    await client.put("a", "1");
    inTurn(cluster, "get", "drop", "not-leader", "lose");
    expect((await client.get("a"))!.text()).toBe("1");
    inTurn(cluster, "list", "drop");
    expect((await client.list({})).items).toHaveLength(1);
  });

  test("an attempt without an answer is given up in time for another", async () => {
    const { cluster, client } = open(1500);
    inTurn(cluster, "put", "hang");
    expect(await client.put("a", "1", { previous: true })).toMatchObject({ version: 1n });
  });

  test("a write that nobody answers is unknown, with all that resolve needs", async () => {
    const { cluster, client } = open(600);
    cluster.faults = ({ method }) => (method === "put" ? "lose" : undefined);
    const error = await client.put("a", "1", { previous: true }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(OutcomeUnknownError);
    const unknown = error as OutcomeUnknownError;
    expect(unknown).toMatchObject({ operation: 'put "a"', cause: expect.any(TimeoutError), write: { subject: { case: "key", value: "a" }, sequence: 1n } });
    expect(unknown.message).toContain("attempts:");
    cluster.faults = undefined;
    expect(await client.resolve(unknown)).toMatchObject({ kind: "applied", revision: 1n, shard: 1 });
    expect(await client.resolve(unknown)).toMatchObject({ kind: "applied" });
  });

  test("a write that is resolved as not applied never will be", async () => {
    const { cluster, client } = open(600);
    cluster.faults = ({ method }) => (method === "put" ? "drop" : undefined);
    const unknown = (await client.put("a", "1", { previous: true }).catch((e: unknown) => e)) as OutcomeUnknownError;
    expect(unknown).toBeInstanceOf(OutcomeUnknownError);
    cluster.faults = undefined;
    expect(await client.resolve(unknown)).toMatchObject({ kind: "not-applied" });
    expect(await client.get("a")).toBeUndefined();
  });

  test("what no node has executed is no unknown outcome", async () => {
    const { cluster, client } = open(300);
    cluster.faults = () => "not-leader";
    const error = await client.put("a", "1").catch((e: unknown) => e);
    expect(error).toMatchObject({ name: "TimeoutError", cause: expect.any(NotLeaderError) });
    expect((error as TimeoutError).attempts.length).toBeGreaterThan(1);
    expect(cluster.revision).toBe(0n);
  });

  test("a signal ends calls: before they begin, and while they are under way", async () => {
    const { cluster, client } = open();
    const reason = new Error("enough");
    await expect(client.put("a", "1", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    await expect(client.get("a", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    let controller = new AbortController();
    cluster.faults = () => (queueMicrotask(() => controller.abort(reason)), "hang");
    await expect(client.get("a", { signal: controller.signal })).rejects.toBe(reason);
    controller = new AbortController();
    await expect(client.put("a", "1", { signal: controller.signal })).rejects.toMatchObject({ name: "OutcomeUnknownError", cause: reason });
    controller = new AbortController();
    await expect(client.scan({}, { signal: controller.signal }).next()).rejects.toBe(reason);
    controller = new AbortController();
    await expect(client.grant(1000, { signal: controller.signal })).rejects.toMatchObject({ name: "OutcomeUnknownError", write: { subject: { case: "grant" } } });
  });

  test("a closed client ends what is under way, and takes nothing more", async () => {
    const { cluster, client } = open();
    const asked: string[] = [];
    cluster.faults = ({ method }) => (asked.push(method), method === "watch" ? undefined : "hang");
    const calls = [client.get("a"), client.put("a", "1", { previous: true }), client.watch({}).next()];
    const settled = Promise.allSettled(calls);
    await until(() => asked.length === 3);
    client.close();
    const [get, put, watch] = await settled;
    expect(get).toMatchObject({ reason: expect.any(ClosedError) });
    expect(put).toMatchObject({ reason: { name: "OutcomeUnknownError", cause: expect.any(ClosedError) } });
    expect(watch).toMatchObject({ reason: expect.any(ClosedError) });
    await expect(client.get("a")).rejects.toThrow(ClosedError);
    await expect(client.put("a", "1")).rejects.toThrow(ClosedError);
    await expect(client.grant(1000)).rejects.toThrow(ClosedError);
    client.close();
  });
});

describe("identities", () => {
  /** A client of a node that answers puts as told, and the ids that it has seen. */
  function spy(answer: (id: RequestId, attempt: number) => Promise<bigint> | bigint, timeoutMs = 2000) {
    const ids: RequestId[] = [];
    const client = new Client({ endpoints: ["node"], timeoutMs }, () => ({
      transport: createRouterTransport(({ service }) => {
        service(KvService, {
          put: async ({ requestId }: PutRequest) => {
            ids.push(requestId!);
            return { header: { shard: 1, clusterId: "00", revision: await answer(requestId!, ids.length) }, version: 1n };
          },
        });
      }),
    }));
    return { ids, put: (key: string, within = timeoutMs) => client.put(key, "", { timeoutMs: within }) };
  }

  test("all attempts of a write have one, and every write another", async () => {
    const { ids, put } = spy((_, attempt) => {
      if (attempt === 1) {
        throw new Error("lost");
      }
      return 1n;
    });
    await put("a");
    await put("b");
    expect(ids.map((id) => id.sequence)).toEqual([1n, 1n, 2n]);
    expect(new Set(ids.map((id) => id.clientId.join()))).toHaveLength(1);
    expect(ids[0]!.clientId).toHaveLength(16);
    expect(ids[2]!.ackedBelow).toBe(2n);
  });

  test("nothing is acknowledged above a write that is under way or unresolved", async () => {
    let release = (_: bigint) => {};
    const { ids, put } = spy(({ sequence }) => {
      if (sequence === 1n) {
        return new Promise<bigint>((resolve) => (release = resolve));
      }
      if (sequence === 3n) {
        throw new Error("lost");
      }
      return sequence;
    }, 600);
    const first = put("a", 20_000);
    await put("b");
    await expect(put("c")).rejects.toThrow(OutcomeUnknownError);
    expect(ids.map((id) => id.ackedBelow)).toEqual(ids.map(() => 1n));
    release(1n);
    await first;
    await put("d");
    expect(ids.at(-1)!.ackedBelow).toBe(3n);
  });

  test("a session of which an old write is not answered is followed by another", async () => {
    const { ids, put } = spy(({ sequence }, attempt) => (attempt === 1 ? new Promise<bigint>(() => {}) : sequence), 5000);
    void put("hangs").catch(() => undefined);
    for (let i = 0; i < 1030; i++) {
      await put("b");
    }
    expect(new Set(ids.map((id) => id.clientId.join()))).toHaveLength(2);
    expect(ids.at(-1)).toMatchObject({ sequence: 6n });
  });

  test("a first attempt that the cluster cannot tell from a retry is made again with what it asks for; seen is of the shard of the key", async () => {
    const { ids, put } = spy(({ seen }) => {
      if (seen < 5n) {
        throw refuse(9, SessionExpiredSchema, { floor: 5n, revision: 8n });
      }
      return 9n;
    });
    await put("a");
    await put("a");
    await put("b");
    expect(ids.map((id) => id.seen)).toEqual([0n, 8n, 9n, 0n, 8n]);
  });

  test("seen stays once an attempt may have been applied, and a refusal then is no answer", async () => {
    const { ids, put } = spy((_, attempt) => {
      if (attempt === 1) {
        throw new Error("lost");
      }
      throw refuse(9, SessionExpiredSchema, { floor: 5n, revision: 8n });
    });
    await expect(put("a")).rejects.toMatchObject({ name: "OutcomeUnknownError", cause: { name: "SessionExpiredError", floor: 5n } });
    expect(ids.map((id) => id.seen)).toEqual([0n, 0n]);
  });
});

test("interceptors of a transport see every call", async () => {
  const seen: string[] = [];
  const interceptor: Interceptor = (next) => (request) => (seen.push(request.method.name), next(request));
  const transport = createRouterTransport(({ service }) => service(KvService, { get: () => ({ kv: { key: "a" } }) }), { transport: { interceptors: [interceptor] } });
  const client = new Client({ endpoints: ["node"] }, () => ({ transport }));
  await client.get("a");
  expect(seen).toEqual(["Get"]);
});
