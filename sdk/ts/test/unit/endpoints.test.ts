import { createRouterTransport } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { RefusedError, createClient } from "../../src/index.js";
import { Endpoints, baseUrls } from "../../src/endpoint.js";
import { NotLeaderSchema } from "../../src/gen/raftkv/v1/error_pb.js";
import { refuse } from "../../src/testing/refuse.js";
import { TestCluster, createTestClient } from "../../src/testing/index.js";

const nowhere = () => ({ transport: createRouterTransport(() => {}) });

test("endpoints are addresses or URLs", () => {
  expect(baseUrls(["127.0.0.1:8080", "http://h:1/", "https://h/raftkv/", "[::1]:8080"])).toEqual(["http://127.0.0.1:8080", "http://h:1", "https://h/raftkv", "http://[::1]:8080"]);
  for (const bad of ["", "ftp://h:1", "http://", "h:1?x", "h:99999"]) {
    expect(() => baseUrls([bad]), bad).toThrow(TypeError);
  }
  expect(() => createClient({ endpoints: [] })).toThrow(TypeError);
  expect(() => createClient({ endpoints: ["h:1"], timeoutMs: 0 })).toThrow(TypeError);
});

test("endpoints take turns, and those that failed are passed over while there are others", () => {
  const endpoints = new Endpoints(["http://a", "http://b", "http://c"], nowhere);
  const turn = [0, 1, 2].map(() => endpoints.next());
  expect(new Set(turn)).toHaveLength(3);
  expect([0, 1, 2].map(() => endpoints.next())).toEqual(turn);
  const [a, b, c] = endpoints.all;
  a!.health.failed(true);
  expect(new Set([0, 1, 2, 3].map(() => endpoints.next()))).toEqual(new Set([b, c]));
  b!.health.failed(false);
  b!.health.failed(false);
  expect(b!.health.leftMs).toBe(0);
  b!.health.failed(false);
  expect(endpoints.next(c)).toBe(a!.health.leftMs < b!.health.leftMs ? a : b);
  a!.health.works();
  expect(a!.health.leftMs).toBe(0);
  expect(new Endpoints(["http://a"], nowhere).next(undefined).baseUrl).toBe("http://a");
});

test("a call follows a hint at the leader", async () => {
  const cluster = new TestCluster({ duplex: false });
  const asked: string[] = [];
  const client = cluster.client({ endpoints: ["node1:1", "node2:1", "node3:1"] });
  cluster.faults = ({ endpoint }) => {
    asked.push(endpoint);
    if (endpoint !== "http://node3:1") {
      throw refuse(14, NotLeaderSchema, { shard: 1, leaderNodeId: "node3", leaderEndpoint: "node3:1" });
    }
    return undefined;
  };
  for (let i = 0; i < 3; i++) {
    await client.put("a", "");
  }
  expect(asked.filter((e) => e === "http://node3:1")).toHaveLength(3);
  expect(asked).toHaveLength(5);
});

test("what is no node refuses", async () => {
  const client = createClient({ endpoints: ["h:1"], connect: nowhere });
  await expect(client.get("a")).rejects.toThrow(RefusedError);
});

test("a test client is one call", async () => {
  const client = createTestClient();
  await client.put("a", "1");
  expect((await client.get("a"))!.text()).toBe("1");
});
