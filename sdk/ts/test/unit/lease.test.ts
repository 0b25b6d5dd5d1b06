import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { ClosedError, InvalidError, LeaseLostError, LeaseNotFoundError, LeaseRevokedError } from "../../src/index.js";
import { TestCluster } from "../../src/testing/index.js";

// The clock of clients is that of the test, too.
beforeEach(() => void vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] }));
afterEach(() => void vi.useRealTimers());

test("a lease is kept alive, with its keys, until it is revoked", async () => {
  const cluster = new TestCluster();
  const client = cluster.client();
  const lease = await client.grant(10_000);
  await client.put("a", "", { lease });
  for (let i = 0; i < 12; i++) {
    await vi.advanceTimersByTimeAsync(5000);
    cluster.advance(5000);
  }
  expect(lease.signal.aborted).toBe(false);
  expect(lease.remainingMs).toBeGreaterThan(4000);
  expect(await client.get("a")).toMatchObject({ leaseId: lease.id });
  await lease.revoke();
  expect(lease.signal.reason).toBeInstanceOf(LeaseRevokedError);
  expect(lease.remainingMs).toBe(0);
  expect(await client.get("a")).toBeUndefined();
  await lease.revoke();
});

test("its holder learns that it is lost before the cluster can have ended it, also if no node is reached", async () => {
  const cluster = new TestCluster();
  const client = cluster.client();
  const lease = await client.grant(10_000);
  cluster.faults = () => "hang";
  await vi.advanceTimersByTimeAsync(9800);
  expect(lease.signal.aborted).toBe(false);
  await vi.advanceTimersByTimeAsync(101);
  expect(lease.signal.reason).toBeInstanceOf(LeaseLostError);
  expect(lease.signal.reason).toMatchObject({ leaseId: lease.id, message: expect.stringContaining("could not be kept alive in time") });
});

test.each([
  ["still lives", false],
  ["has ended meanwhile", true],
])("a grant that was late gives a lease that lives, also if the first %s", async (_, ended) => {
  const cluster = new TestCluster();
  const client = cluster.client();
  let [grants, prolonged] = [0, 0];
  cluster.faults = ({ method }) => {
    if (method === "grant" && ++grants === 1) {
      return "hang";
    }
    if (method === "keepAlive" && ++prolonged === 1 && ended) {
      cluster.advance(60_000);
    }
    return undefined;
  };
  const granted = client.grant(1000);
  await vi.advanceTimersByTimeAsync(5000);
  const lease = await granted;
  expect(lease.signal.aborted).toBe(false);
  expect(grants).toBe(ended ? 3 : 2);
});

test("a node that hangs leaves time for the others", async () => {
  const cluster = new TestCluster();
  const client = cluster.client();
  const lease = await client.grant(10_000);
  cluster.faults = ({ endpoint }) => (endpoint.includes("node1") ? "hang" : undefined);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(lease.signal.aborted).toBe(false);
});

test("a lease that the cluster has ended is lost", async () => {
  const cluster = new TestCluster();
  const client = cluster.client();
  const lease = await client.grant(10_000);
  cluster.advance(10_000);
  await vi.advanceTimersByTimeAsync(5000);
  expect(lease.signal.reason).toMatchObject({ name: "LeaseLostError", cause: expect.any(LeaseNotFoundError) });
  await expect(client.put("a", "", { lease })).rejects.toThrow(LeaseNotFoundError);
});

test("without the keep-alive in the background its holder prolongs it, and can go on with it elsewhere", async () => {
  const cluster = new TestCluster();
  const lease = await cluster.client().grant(10_000, { keepAlive: false });
  await vi.advanceTimersByTimeAsync(6000);
  cluster.advance(6000);
  await lease.keepAlive();
  await vi.advanceTimersByTimeAsync(6000);
  cluster.advance(6000);
  expect(lease.signal.aborted).toBe(false);
  const resumed = await cluster.client().resumeLease(lease.id);
  await vi.advanceTimersByTimeAsync(6000);
  cluster.advance(6000);
  expect(lease.signal.reason).toMatchObject({ message: expect.stringContaining("its time is over") });
  expect(resumed.signal.aborted).toBe(false);
  await expect(lease.keepAlive()).rejects.toThrow(LeaseLostError);
  await expect(cluster.client().resumeLease(1n)).rejects.toThrow(LeaseNotFoundError);
});

test("a closed client holds nothing", async () => {
  const client = new TestCluster().client();
  const lease = await client.grant(10_000);
  client.close();
  expect(lease.signal.reason).toBeInstanceOf(ClosedError);
  await expect(client.grant(0)).rejects.toThrow(InvalidError);
});
