import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createClient, type Change, type Client, type WatchEvent } from "../../src/index.js";
import { connectNode } from "../../src/node.js";
import { Nodes, Proxy, basePort, eventually, run, startDemo } from "../raftkv.js";

const ways = [
  ["on streams", connectNode()],
  ["gRPC", connectNode({ protocol: "grpc" })],
  ["in requests", connectNode({ httpVersion: "1.1" })],
] as const;

/** Follows a key or prefix, and keeps what it tells. */
function follow(client: Client, prefix: string) {
  const events: Change[] = [];
  let hasBegun = (_: WatchEvent) => {};
  const begun = new Promise<WatchEvent>((resolve) => (hasBegun = resolve));
  const controller = new AbortController();
  const ended = (async () => {
    for await (const event of client.watch({ prefix }, { signal: controller.signal, progressMs: 100 })) {
      hasBegun(event);
      if (event.type === "put" || event.type === "delete") {
        events.push(event);
      }
    }
  })().catch((reason: unknown) => reason);
  return { events, begun, stop: () => (controller.abort("stopped"), ended) };
}

/** Writes each of some keys again and again until the others have had enough, each write behind the one before. Returns how often each was written. */
function writers(client: Client, prefix: string) {
  let going = true;
  const done = Promise.all(
    Array.from({ length: 8 }, async (_, i) => {
      let count = 0n;
      while (going) {
        const { version } = await client.put(`${prefix}${i}`, String(++count));
        expect(version).toBe(count); // or a write was lost, or applied twice
      }
      return count;
    }),
  );
  return () => ((going = false), done);
}

async function expectEveryWrite(counts: bigint[], events: Change[]): Promise<void> {
  const total = counts.reduce((a, b) => a + b);
  await eventually(() => BigInt(events.length) >= total, `the watch tells ${total} events, and has told ${events.length}`);
  for (const [i, count] of counts.entries()) {
    const told = events.filter((e) => e.item.key.endsWith(`/${i}`)).map((e) => e.item.text());
    expect(told).toEqual(Array.from({ length: Number(count) }, (_, n) => String(n + 1))); // in order, without a gap, nothing twice
  }
}

describe("three processes", () => {
  const nodes = new Nodes(basePort + 20);
  beforeAll(() => nodes.start());
  afterAll(() => nodes.stop());

  test.each(ways)("the leader is killed while writers and a watch are under way, %s", async (name, connect) => {
    const prefix = `kill/${name}/`;
    const client = createClient({ endpoints: nodes.endpoints, connect, timeoutMs: 30_000 });
    const watch = follow(client, prefix);
    await watch.begun;
    const finish = writers(client, prefix);
    await eventually(() => watch.events.length > 50, "writes before the kill");
    const leader = await nodes.leader();
    await nodes.kill(leader);
    const before = watch.events.length;
    await eventually(() => watch.events.length > before + 100, "writes after the kill");
    await expectEveryWrite(await finish(), watch.events);
    expect(await watch.stop()).toBe("stopped");
    client.close();
    nodes.launch(leader);
    await nodes.ready(leader);
  });
});

describe("a demo behind proxies", () => {
  let demo: Awaited<ReturnType<typeof startDemo>>;
  const proxies: Proxy[] = [];
  const endpoints = [0, 1, 2].map((i) => `127.0.0.1:${basePort + 40 + i}`);
  beforeAll(async () => {
    demo = await startDemo(basePort + 10);
    proxies.push(...endpoints.map((_, i) => new Proxy(basePort + 40 + i, basePort + 10 + i)));
  });
  afterAll(async () => {
    proxies.forEach((p) => p.close());
    await demo?.stop();
  });

  test.each(ways)("connections are cut and the lead is handed over while writers and a watch are under way, %s", async (name, connect) => {
    const prefix = `cut/${name}/`;
    const client = createClient({ endpoints, connect, timeoutMs: 30_000 });
    const watch = follow(client, prefix);
    await watch.begun;
    const finish = writers(client, prefix);
    for (let i = 0; i < 6; i++) {
      const before = watch.events.length;
      await eventually(() => watch.events.length > before + 20, `writes after cut ${i}`);
      if (i % 3 === 2) {
        await run("shard", "transfer-leader", "1", `node${1 + ((i + name.length) % 3)}`, "--endpoints", demo.endpoints.join(","));
      }
      proxies.forEach((p) => p.cut());
    }
    await expectEveryWrite(await finish(), watch.events);
    expect(await watch.stop()).toBe("stopped");
    client.close();
  });
});

test("without a cluster a read fails as unavailable, and a write says that nothing was sent", async () => {
  const client = createClient({ endpoints: [`127.0.0.1:${basePort + 60}`], connect: connectNode(), timeoutMs: 3000 });
  await expect(client.get("a")).rejects.toMatchObject({ name: "TimeoutError", operation: 'get "a"' });
  await expect(client.put("a", "")).rejects.toMatchObject({ name: "TimeoutError", attempts: expect.arrayContaining([{ endpoint: `http://127.0.0.1:${basePort + 60}`, error: expect.objectContaining({ name: "UnavailableError" }) }]) });
  client.close();
});
