import { build } from "esbuild";
import { existsSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { fileURLToPath } from "node:url";
import { chromium, type Browser, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createClient } from "../../src/index.node.js";
import { Nodes, basePort, eventually } from "../raftkv.js";

const executablePath = process.env["CHROMIUM"] ?? "/usr/bin/chromium";
const pagePort = basePort + 70;
const allowed = `http://localhost:${pagePort}`;
const foreign = `http://localhost:${pagePort + 1}`;

/** What the bundle gives pages. */
declare const raftkv: typeof import("../../src/index.js") & typeof import("../../src/web.js");

const nodes = new Nodes(basePort + 20, ["--origins", allowed]);
const servers: Server[] = [];
let browser: Browser;

/** Serves an empty page with the browser build of the package. */
async function servePage(port: number): Promise<void> {
  const root = fileURLToPath(new URL("../..", import.meta.url));
  const { outputFiles } = await build({
    stdin: { contents: `export * from "@raftkv/client"; export * from "@raftkv/client/web";`, resolveDir: root },
    bundle: true,
    format: "iife",
    globalName: "raftkv",
    platform: "browser",
    write: false,
  });
  const server = createServer((request, response) => {
    const script = request.url === "/raftkv.js";
    response.setHeader("Content-Type", script ? "text/javascript" : "text/html");
    response.end(script ? outputFiles[0]!.text : `<!doctype html><title>raftkv</title><script src="/raftkv.js"></script>`);
  });
  servers.push(server.listen(port, "127.0.0.1"));
}

async function open(origin: string): Promise<Page> {
  const page = await browser.newPage();
  await page.goto(origin);
  return page;
}

beforeAll(async () => {
  if (!existsSync(executablePath)) {
    throw new Error(`no Chromium at ${executablePath}: install it (Debian: apt-get install chromium), or set CHROMIUM to where it is`);
  }
  const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
  browser = await chromium.launch({ executablePath, args });
  await Promise.all([servePage(pagePort), servePage(pagePort + 1), nodes.start()]);
});
afterAll(async () => {
  await browser?.close();
  servers.forEach((server) => server.close());
  await nodes.stop();
});

describe.each(["connectWeb", "grpcWeb"] as const)("a page that speaks %s", (way) => {
  const parameters = { way, endpoints: nodes.endpoints, prefix: `${way}/` };

  test("writes, reads and scans", async () => {
    const page = await open(allowed);
    const result = await page.evaluate(async ({ way, endpoints, prefix }) => {
      const client = raftkv.createClient({ endpoints, connect: raftkv[way]() });
      const keys = Array.from({ length: 200 }, (_, i) => `${prefix}${String(i).padStart(3, "0")}`);
      await Promise.all(keys.map((key, i) => client.put(key, raftkv.json({ i }))));
      const items = await Promise.all(keys.map((key) => client.get(key)));
      const scanned: string[] = [];
      for await (const item of client.scan({ prefix })) {
        scanned.push(item.key);
      }
      const conflict = await client.put(keys[0]!, "", { ifExists: false }).catch((e: unknown) => e instanceof raftkv.PreconditionFailedError && e.current > 0n);
      const txn = await client.txn({ if: [{ key: keys[0]!, exists: true }], then: [{ put: `${prefix}txn`, value: "🐙" }, { get: keys[1]! }] });
      const text = (await client.get(`${prefix}txn`))?.text();
      const missing = await client.get(`${prefix}missing`);
      const aborted = await client.get(keys[0]!, { signal: AbortSignal.abort("enough") }).catch((e: unknown) => e);
      const requests = performance.getEntriesByType("resource").filter((e) => e.name.endsWith("/Batch") || e.name.endsWith("/Put")).length;
      client.close();
      const read = items.every((item, i) => item!.json<{ i: number }>().i === i);
      return { read, inOrder: scanned.join() === keys.join(), conflict, txn: txn.succeeded, text, missing, aborted, requests };
    }, parameters);
    expect(result).toEqual({ read: true, inOrder: true, conflict: true, txn: true, text: "🐙", missing: undefined, aborted: "enough", requests: expect.any(Number) });
    expect(result.requests).toBeLessThan(20); // 200 puts have shared requests
    await page.close();
  });

  test("watches, also across the end of a node, and holds a lease", async () => {
    const page = await open(allowed);
    await page.evaluate(async ({ way, endpoints, prefix }) => {
      const client = raftkv.createClient({ endpoints, connect: raftkv[way]() });
      const told: string[] = [];
      const events = client.watch({ prefix: `${prefix}w/` }, { progressMs: 100 });
      await events.next(); // it has begun
      void (async () => {
        for await (const event of events) {
          if (event.type === "put" || event.type === "delete") {
            told.push(`${event.type} ${event.item.key}`);
          }
        }
      })();
      const lease = await client.grant(5000);
      Object.assign(globalThis, { client, told, lease });
    }, parameters);
    const writer = createClient({ endpoints: nodes.endpoints });
    const expected: string[] = [];
    const told = () => page.evaluate(() => (globalThis as unknown as { told: string[] }).told);
    for (const [i, endpoint] of nodes.endpoints.entries()) {
      await nodes.kill(i);
      await writer.put(`${parameters.prefix}w/${i}`, endpoint);
      expected.push(`put ${parameters.prefix}w/${i}`);
      await eventually(async () => (await told()).length >= expected.length, `the page tells ${expected.length} events`);
      nodes.launch(i);
      await nodes.ready(i);
    }
    expect(await told()).toEqual(expected);
    const held = await page.evaluate(async (prefix) => {
      const { client, lease } = globalThis as unknown as { client: import("../../src/index.js").Client; lease: import("../../src/index.js").Lease };
      await client.put(`${prefix}member`, "here", { lease });
      const there = await client.get(`${prefix}member`);
      await lease.revoke();
      return { aborted: lease.signal.aborted, there: there?.text(), gone: await client.get(`${prefix}member`) };
    }, parameters.prefix);
    expect(held).toEqual({ aborted: true, there: "here", gone: undefined });
    writer.close();
    await page.close();
  });
});

test("a page of an origin that is not configured reads and writes nothing", async () => {
  const page = await open(foreign);
  const result = await page.evaluate(async (endpoints) => {
    const client = raftkv.createClient({ endpoints, timeoutMs: 1000 });
    const [get, put] = await Promise.all([client.get("greeting"), client.put("foreign", "1")].map((call) => call.then(() => "done", (e: Error) => e.name)));
    client.close();
    return { get, put };
  }, nodes.endpoints);
  expect(result.get).toBe("TimeoutError");
  expect(result.put).toBe("OutcomeUnknownError"); // a browser does not tell why
  const client = createClient({ endpoints: nodes.endpoints });
  expect(await client.get("foreign")).toBeUndefined();
  client.close();
  await page.close();
});
