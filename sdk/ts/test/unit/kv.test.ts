import { describe, expect, test } from "vitest";
import { CompactedError, FutureRevisionError, InvalidError, PreconditionFailedError, json } from "../../src/index.js";
import { TestCluster } from "../../src/testing/index.js";
import { collect } from "../collect.js";

// The same whether operations go on streams or in requests of their own.
describe.each([{ duplex: true }, { duplex: false }])("with $duplex streams", (o) => {
  const open = () => new TestCluster(o).client();

  test("a key is written, read and removed", async () => {
    const client = open();
    expect(await client.get("a")).toBeUndefined();
    const put = await client.put("a", "1");
    expect(put).toMatchObject({ revision: 1n, createRevision: 1n, version: 1n, shard: 1 });
    const item = await client.get("a");
    expect(item).toMatchObject({ key: "a", modRevision: 1n, createRevision: 1n, version: 1n, ttlMs: 0, leaseId: 0n, ageMs: 0 });
    expect(item?.text()).toBe("1");
    expect(await client.delete("a")).toMatchObject({ deleted: true, revision: 2n });
    expect(await client.delete("a")).toMatchObject({ deleted: false, revision: 2n });
    expect(await client.get("a")).toBeUndefined();
  });

  test("values are bytes, strings and JSON", async () => {
    const client = open();
    await Promise.all([client.put("bytes", new Uint8Array([0, 255])), client.put("text", "\ufeffgrüße 🐙"), client.put("json", json({ n: [1, null] }))]);
    expect([...(await client.get("bytes"))!.value]).toEqual([0, 255]);
    expect((await client.get("text"))!.text()).toBe("\ufeffgrüße 🐙");
    expect((await client.get("json"))!.json<{ n: unknown[] }>().n).toEqual([1, null]);
    expect(() => json(undefined)).toThrow(TypeError);
    await expect(client.get("bytes").then((i) => i!.text())).rejects.toThrow(TypeError);
  });

  test("a value that is changed after the call is written as it was", async () => {
    const client = open();
    const value = new Uint8Array([1]);
    const put = client.put("a", value);
    value[0] = 2;
    await put;
    expect([...(await client.get("a"))!.value]).toEqual([1]);
  });

  test("conditions hold or tell the revision that is there", async () => {
    const client = open();
    await client.put("a", "1", { ifExists: false });
    const failed = await client.put("a", "2", { ifExists: false }).catch((e: unknown) => e);
    expect(failed).toBeInstanceOf(PreconditionFailedError);
    expect(failed).toMatchObject({ key: "a", current: 1n, operation: 'put "a"', message: 'put "a": the condition does not hold: the key is at revision 1' });
    await expect(client.put("a", "2", { ifRevision: 7n })).rejects.toMatchObject({ current: 1n });
    const second = await client.put("a", "2", { ifRevision: 1n, previous: true });
    expect(second.previous?.text()).toBe("1");
    await expect(client.delete("b", { ifExists: true })).rejects.toMatchObject({ name: "PreconditionFailedError", current: 0n });
    expect((await client.delete("a", { ifRevision: second.revision, previous: true })).previous?.text()).toBe("2");
    await expect(client.put("a", "", { ifExists: true, ifRevision: 1n })).rejects.toThrow(InvalidError);
  });

  test("a batch is one revision", async () => {
    const client = open();
    await client.put("b", "0");
    const { revision, results } = await client.batch([{ put: "a", value: "1" }, { delete: "b" }, { delete: "c" }]);
    expect(revision).toBe(2n);
    expect(results).toMatchObject([{ version: 1n, revision }, { deleted: true }, { deleted: false }]);
    await expect(client.batch([])).rejects.toThrow(InvalidError);
    await expect(client.batch([{ delete: "a" }, { delete: "a" }])).rejects.toThrow(InvalidError);
  });

  test("a transaction compares, then does one thing or another", async () => {
    const client = open();
    const txn = {
      if: [{ key: "lock", exists: false }],
      then: [{ put: "lock", value: "me" }, { get: "none" }],
      else: [{ get: "lock" }],
    };
    expect(await client.txn(txn)).toMatchObject({ succeeded: true, revision: 1n, results: [{ version: 1n }, { item: undefined }] });
    const second = await client.txn(txn);
    expect(second).toMatchObject({ succeeded: false, failed: { index: 0, current: 1n }, results: [{ item: { key: "lock" } }] });
    const third = await client.txn({ if: [{ key: "lock", value: "me" }, { key: "lock", revision: 1n }], then: [{ delete: "lock", previous: true }] });
    expect(third).toMatchObject({ succeeded: true, results: [{ deleted: true, previous: { key: "lock" } }] });
    await expect(client.txn({})).rejects.toThrow(InvalidError);
  });

  test("old revisions are read as far as they are known", async () => {
    const cluster = new TestCluster(o);
    const client = cluster.client();
    await client.put("a", "1");
    await client.put("a", "2");
    expect((await client.get("a", { revision: 1n }))!.text()).toBe("1");
    await expect(client.get("a", { revision: 9n })).rejects.toThrow(FutureRevisionError);
    cluster.compact(2n);
    const compacted = await client.get("a", { revision: 1n }).catch((e: unknown) => e);
    expect(compacted).toBeInstanceOf(CompactedError);
    expect(compacted).toMatchObject({ revision: 1n, oldest: 2n, shard: 1 });
  });

  test("a scan goes through pages, in order, either way, and can be left", async () => {
    const client = open();
    const keys = Array.from({ length: 2500 }, (_, i) => `k/${String(i).padStart(4, "0")}`);
    await Promise.all([client.put("other", ""), ...keys.map((key) => client.put(key, "v"))]);
    const all = async (...args: Parameters<typeof client.scan>) => (await collect(client.scan(...args))).map((i) => i.key);
    expect(await all({ prefix: "k/" })).toEqual(keys);
    expect(await all({ prefix: "k/" }, { reverse: true, limit: 1500, keysOnly: true })).toEqual(keys.toReversed().slice(0, 1500));
    expect(await all({ start: "k/0001", end: "k/0003" })).toEqual(["k/0001", "k/0002"]);
    expect(await all({ prefix: "k/" }, { limit: 0 })).toEqual([]);
    expect(await all({})).toHaveLength(2501);
    for await (const item of client.scan({ prefix: "k/" })) {
      expect(item.key).toBe("k/0000");
      break;
    }
    const page = await client.list({ prefix: "k/" }, { limit: 2 });
    expect(page.items.map((i) => i.key)).toEqual(["k/0000", "k/0001"]);
    expect((await client.list({ prefix: "k/" }, { limit: 2, pageToken: page.next })).items[0]!.key).toBe("k/0002");
  });

  test("keys live for their time", async () => {
    const cluster = new TestCluster(o);
    const client = cluster.client();
    await client.put("a", "", { ttlMs: 1000 });
    cluster.advance(400);
    expect((await client.get("a"))!.ttlMs).toBe(600);
    cluster.advance(600);
    expect(await client.get("a")).toBeUndefined();
    await expect(client.put("a", "", { ttlMs: 0 })).rejects.toThrow(InvalidError);
  });

  test("a bad key is refused before it travels", async () => {
    const client = open();
    await expect(client.get("")).rejects.toThrow(InvalidError);
    await expect(client.put("\ud800", "")).rejects.toThrow(InvalidError);
    await expect(client.delete("x".repeat(5000))).rejects.toThrow(InvalidError);
  });
});
