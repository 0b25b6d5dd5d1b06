import { createRouterTransport } from "@connectrpc/connect";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { Client } from "../../src/client.js";
import { CompactedError, InvalidError, type WatchEvent } from "../../src/index.js";
import { Cursor } from "../../src/cursor.js";
import type { EventSchema } from "../../src/gen/raftkv/v1/watch_pb.js";
import { WatchService, type WatchRequest, type WatchResponseSchema } from "../../src/gen/raftkv/v1/watch_service_pb.js";
import { TestCluster } from "../../src/testing/index.js";
import { collect } from "../collect.js";

const told = (events: WatchEvent[]) => events.map((e) => (e.type === "put" || e.type === "delete" ? `${e.type} ${e.item.key}@${e.revision}` : e.type));

test("a watch begins with what is there, if asked, and goes on with what changes", async () => {
  const cluster = new TestCluster();
  const client = cluster.client();
  await client.put("b", "1");
  await client.put("a", "1");
  await client.put("other", "1");
  const events = client.watch({ start: "a", end: "c" }, { initial: true, previous: true, progressMs: 100 });
  expect(told(await take(events, 4))).toEqual(["progress", "put a@2", "put b@1", "initial-done"]);
  await client.put("a", "2");
  await client.delete("b");
  const [put, removed] = await take(events, 2);
  expect(put).toMatchObject({ type: "put", item: { key: "a", modRevision: 4n }, previous: { modRevision: 2n }, initial: false, shard: 1 });
  expect(removed).toMatchObject({ type: "delete", item: { key: "b", modRevision: 5n } });
  await events.return();
  expect(told(await collect(client.watch({ key: "a" }, { fromRevision: 2n, withoutDeletes: true }), 2))).toEqual(["put a@2", "put a@4"]);
  expect(told(await collect(client.watch({}, { token: put!.token }), 1))).toEqual(["delete b@5"]);
});

async function take(events: AsyncGenerator<WatchEvent>, count: number): Promise<WatchEvent[]> {
  const all: WatchEvent[] = [];
  while (all.length < count) {
    all.push((await events.next()).value as WatchEvent);
  }
  return all;
}

test("a watch goes on at another node, without a gap and without repeating", async () => {
  const cluster = new TestCluster();
  const client = cluster.client();
  const calls = { event: 0, watch: 0 };
  cluster.faults = ({ method }) => (method === "event" || method === "watch") && ++calls[method] % 3 === 2 ? "drop" : undefined;
  const events = collect(client.watch({ prefix: "k" }, { fromRevision: 1n }), 40);
  for (let i = 0; i < 40; i++) {
    await client.put("k", String(i));
    await new Promise((resolve) => setTimeout(resolve)); // so that the watch has something to tell of each
  }
  expect(told(await events)).toEqual(Array.from({ length: 40 }, (_, i) => `put k@${i + 1}`));
  expect(calls.watch).toBeGreaterThan(1);
});

test("a watch ends where its history is gone, and where nobody serves it", async () => {
  const cluster = new TestCluster();
  const client = cluster.client({ timeoutMs: 300 });
  await client.batch([{ put: "a", value: "" }]);
  await client.put("a", "");
  cluster.compact(3n);
  const compacted = await client.watch({ key: "a" }, { fromRevision: 1n }).next().catch((e: unknown) => e);
  expect(compacted).toBeInstanceOf(CompactedError);
  expect(compacted).toMatchObject({ oldest: 3n, operation: 'watch {"key":"a"}' });
  cluster.faults = () => "drop";
  await expect(client.watch({}).next()).rejects.toMatchObject({ name: "TimeoutError", cause: { name: "UnavailableError" } });
  await expect(client.watch({}, { patienceMs: 50 }).next()).rejects.toMatchObject({ name: "TimeoutError" });
});

test("a watch ends with its signal, or when the loop is left", async () => {
  const cluster = new TestCluster();
  const client = cluster.client();
  const controller = new AbortController();
  const next = client.watch({}, { signal: controller.signal }).next();
  controller.abort("enough");
  await expect(next).rejects.toBe("enough");
  await expect(client.watch({}, { signal: controller.signal }).next()).rejects.toBe("enough");
  const events = client.watch({}, { progressMs: 100 });
  await events.next();
  expect(await events.return()).toMatchObject({ done: true });
});

test("what cannot be watched is refused at once", () => {
  const client = new TestCluster().client();
  expect(() => client.watch({ key: "" })).toThrow(InvalidError);
  for (const token of ["~1.2.3", "t~1", "t~1.", "t~x.1.1", "t~2.1.1~1.1.1", "t~1.2.3.4", "t~1.!"]) {
    expect(() => client.watch({}, { token }), token).toThrow(InvalidError);
  }
});

/** A client of a node whose streams are scripts: of each stream the responses, after which it breaks. The last one stays open. */
function scripted(...streams: MessageInitShape<typeof WatchResponseSchema>[][]) {
  const requests: WatchRequest[] = [];
  const transport = createRouterTransport(({ service }) =>
    service(WatchService, {
      async *watch(request, { signal }) {
        const script = streams[requests.push(request) - 1] ?? [];
        yield* script;
        if (requests.length < streams.length) {
          throw new Error("broken");
        }
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      },
    }),
  );
  return { client: new Client({ endpoints: ["node"] }, () => ({ transport })), requests };
}

const event = (key: string, revision: bigint, o: { initial?: boolean } = {}): MessageInitShape<typeof EventSchema> => ({ type: 1, kv: { key }, shard: 1, revision, ...o });

test("of a revision that comes again as a whole, what has been told is left out", async () => {
  const { client, requests } = scripted(
    [
      { created: true, token: "t0" },
      { events: [event("a", 7n), event("b", 7n)], moreOfRevision: true, token: "t0" },
    ],
    [
      { created: true, token: "t0" },
      { events: [event("a", 7n), event("b", 7n), event("c", 7n)], token: "t7" },
      { events: [event("d", 8n)], token: "t8" },
    ],
  );
  const events = await collect(client.watch({}), 4);
  expect(told(events)).toEqual(["put a@7", "put b@7", "put c@7", "put d@8"]);
  expect(requests.map((r) => r.token)).toEqual(["", "t0"]);
  expect(events.map((e) => e.token)).toEqual(["t0~1.7.1", "t0~1.7.2", "t7", "t8"]);
});

test("a token of an event within a response leaves out what came before it", async () => {
  const script = [
    { created: true, token: "t0" },
    { events: [event("a", 3n), event("b", 4n), event("c", 5n)], token: "t5" },
  ];
  const [, second] = await collect(scripted(script).client.watch({}), 2);
  expect(second!.token).toBe("t0~1.4.1");
  const { client, requests } = scripted(script);
  expect(told(await collect(client.watch({}, { token: second!.token }), 1))).toEqual(["put c@5"]);
  expect(requests[0]!.token).toBe("t0");
});

test("keys of the start that have been told are left out, by the order of their bytes", async () => {
  const initial = { initial: true };
  const start = [event("a", 1n, initial), event("\uffee", 2n, initial), event("🐙", 1n, initial)];
  const script = [{ created: true, token: "t0" }, { events: start, initialDone: true, token: "t9" }, { events: [event("a", 10n)], token: "t10" }];
  const events = await collect(scripted(script).client.watch({}, { initial: true }), 5);
  expect(told(events)).toEqual(["put a@1", "put \uffee@2", "put 🐙@1", "initial-done", "put a@10"]);
  const rest = await collect(scripted(script).client.watch({}, { initial: true, token: events[1]!.token }), 3);
  expect(told(rest)).toEqual(["put 🐙@1", "initial-done", "put a@10"]);
});

test("cursors are text and back", () => {
  for (const text of ["", "token", "t~1.2.3", "t~1.2.3~4.a2V5~70.18446744073709551615.1"]) {
    expect(Cursor.parse(text).toString()).toBe(text);
  }
  expect(Cursor.parse("t~4.a2V5").told).toEqual([{ shard: 4, key: "key" }]);
});
