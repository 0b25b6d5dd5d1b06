import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Client, CrossShardError, InvalidError, LimitError, PreconditionFailedError, createClient, json } from "../../src/index.js";
import { connectNode } from "../../src/node.js";
import { connectWeb, grpcWeb } from "../../src/web.js";
import { collect } from "../collect.js";
import { basePort, startDemo } from "../raftkv.js";

let demo: Awaited<ReturnType<typeof startDemo>>;

beforeAll(async () => {
  demo = await startDemo(basePort, "--shards", "4");
});
afterAll(() => demo?.stop());

// Every way to a node that the package has, against the same real cluster of four shards.
describe.each([
  ["Connect over HTTP/2", connectNode()],
  ["gRPC", connectNode({ protocol: "grpc" })],
  ["gRPC-Web over HTTP/2", connectNode({ protocol: "grpc-web" })],
  ["Connect over HTTP/1.1", connectNode({ httpVersion: "1.1" })],
  ["gRPC-Web over HTTP/1.1", connectNode({ protocol: "grpc-web", httpVersion: "1.1" })],
  ["Connect by fetch", connectWeb()],
  ["gRPC-Web by fetch", grpcWeb()],
  ["Connect with gzip", connectNode({ gzip: true })],
])("%s", (name, connect) => {
  let client: Client;
  const prefix = `${name}/`;
  const tag = `{${name}}/`;

  beforeAll(() => {
    client = createClient({ endpoints: demo.endpoints, connect });
  });
  afterAll(() => client.close());

  test("concurrent writes and reads of many keys", async () => {
    const keys = Array.from({ length: 300 }, (_, i) => `${prefix}${String(i).padStart(3, "0")}`);
    const puts = await Promise.all(keys.map((key, i) => client.put(key, json({ i, pad: "x".repeat(2000) }))));
    expect(puts.every((p) => p.version === 1n && p.shard > 0)).toBe(true);
    const items = await Promise.all(keys.map((key) => client.get(key)));
    expect(items.map((item) => item!.json<{ i: number }>().i)).toEqual(keys.map((_, i) => i));
    expect((await collect(client.scan({ prefix }))).map((item) => item.key)).toEqual(keys);
    const deleted = await Promise.all(keys.map((key) => client.delete(key)));
    expect(deleted.every((d) => d.deleted)).toBe(true);
    expect(await collect(client.scan({ prefix }))).toEqual([]);
  });

  test("typed errors", async () => {
    const { revision } = await client.put(`${tag}a`, "1");
    const failed = await client.put(`${tag}a`, "2", { ifExists: false }).catch((e: unknown) => e);
    expect(failed).toBeInstanceOf(PreconditionFailedError);
    expect(failed).toMatchObject({ key: `${tag}a`, current: revision });
    const spread = Array.from({ length: 20 }, (_, i) => ({ put: `${prefix}${i}`, value: "" }));
    const crossing = await client.batch(spread).catch((e: unknown) => e);
    expect(crossing).toBeInstanceOf(CrossShardError);
    expect((crossing as CrossShardError).groups.flatMap((g) => g.keys).sort()).toEqual(spread.map((w) => w.put).sort());
    await expect(client.put("large", new Uint8Array((1 << 20) + 1))).rejects.toThrow(LimitError);
    const noise = randomBytes(9 << 20); // which gzip does not make smaller
    const [tooLarge, beside] = await Promise.allSettled([client.put("larger", noise), client.put(`${tag}beside`, "1", { ifExists: false })]);
    expect(tooLarge).toMatchObject({ reason: { name: "LimitError", field: "request" } });
    expect(beside).toMatchObject({ status: "fulfilled" });
    await expect(client.batch([{ delete: "a" }, { delete: "a" }])).rejects.toThrow(InvalidError);
    await expect(client.put("leased", "", { lease: { id: 7n } })).rejects.toMatchObject({ name: "LeaseNotFoundError", leaseId: 7n });
  });

  test("transactions and batches", async () => {
    await client.batch([{ put: `${tag}x`, value: "1" }, { delete: `${tag}lock` }]);
    const txn = { if: [{ key: `${tag}lock`, exists: false }], then: [{ put: `${tag}lock`, value: name }, { get: `${tag}x` }], else: [{ get: `${tag}lock` }] };
    const first = await client.txn(txn);
    expect(first).toMatchObject({ succeeded: true, results: [{ version: 1n }, { item: { key: `${tag}x` } }] });
    expect(await client.txn(txn)).toMatchObject({ succeeded: false, failed: { index: 0, current: first.revision } });
  });

  test("stale reads see what a token names", async () => {
    await client.put(`${tag}stale`, "new");
    const token = client.token();
    const item = await client.get(`${tag}stale`, { stale: { token } });
    expect(item!.text()).toBe("new");
    expect((await client.list({ prefix: `${tag}stale` }, { stale: { token, maxAgeMs: 60_000 } })).items).toHaveLength(1);
  });

  test("a watch tells what changes", async () => {
    const events = client.watch({ prefix: `${tag}w/` }, { progressMs: 1000, previous: true });
    expect((await events.next()).value).toMatchObject({ type: "progress" });
    await client.put(`${tag}w/a`, "1");
    await client.put(`${tag}w/a`, "2");
    await client.delete(`${tag}w/a`);
    const changes = await collect(events, 3);
    expect(changes).toMatchObject([
      { type: "put", item: { key: `${tag}w/a` }, previous: undefined },
      { type: "put", previous: { key: `${tag}w/a` } },
      { type: "delete", item: { key: `${tag}w/a` } },
    ]);
    const rest = await collect(client.watch({ prefix: `${tag}w/` }, { token: changes[0]!.token }), 2);
    expect(rest.map((e) => e.type)).toEqual(["put", "delete"]);
  });

  test("leases end with their keys", async () => {
    const lease = await client.grant(10_000);
    await client.put(`${prefix}member`, "here", { lease });
    expect(await client.get(`${prefix}member`)).toMatchObject({ leaseId: lease.id });
    await lease.keepAlive();
    const other = await client.resumeLease(lease.id, { keepAlive: false });
    expect(other.ttlMs).toBe(10_000);
    const events = client.watch({ key: `${prefix}member` }, { initial: true, withoutPuts: true });
    // Only what is revoked behind the mark is sure to be told: a watch that begins later finds no key.
    expect((await events.next()).value).toMatchObject({ type: "put", initial: true });
    expect((await events.next()).value).toMatchObject({ type: "initial-done" });
    await lease.revoke();
    expect(lease.signal.reason).toMatchObject({ name: "LeaseRevokedError" });
    expect(await collect(events, 1)).toMatchObject([{ type: "delete", expired: true }]);
    await expect(other.keepAlive()).rejects.toMatchObject({ name: "LeaseNotFoundError" });
    expect(other.signal.reason).toMatchObject({ name: "LeaseLostError" });
  });
});

test("the port for native gRPC speaks that, and tells others", async () => {
  const endpoints = [0, 1, 2].map((i) => `127.0.0.1:${basePort + 300 + i}`);
  const grpc = createClient({ endpoints, connect: connectNode({ protocol: "grpc" }) });
  await grpc.put("native", "1");
  expect((await grpc.get("native"))!.text()).toBe("1");
  grpc.close();
  const connect = createClient({ endpoints, connect: connectNode() });
  await expect(connect.get("native")).rejects.toMatchObject({ name: "RefusedError", message: expect.stringContaining("300 lower") });
  connect.close();
});
