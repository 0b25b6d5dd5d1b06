import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { basePort, startDemo } from "../raftkv.js";

let demo: Awaited<ReturnType<typeof startDemo>>;
beforeAll(async () => {
  demo = await startDemo(basePort);
});
afterAll(() => demo?.stop());

test("a program that does not close its client ends by itself when nothing is under way", async () => {
  const built = new URL("../../dist/index.node.js", import.meta.url).href;
  const program = `
    import { createClient } from ${JSON.stringify(built)};
    const client = createClient({ endpoints: ${JSON.stringify(demo.endpoints)} });
    await Promise.all([client.put("a", "1"), client.put("b", "2"), client.list({})]);
    console.log((await client.get("a")).text());
    const controller = new AbortController();
    const left = client.get("a", { signal: controller.signal });
    controller.abort("left");
    console.log(await left.catch((reason) => reason));
  `;
  const { stdout, stderr } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", program], { cwd: fileURLToPath(new URL("../..", import.meta.url)), timeout: 50_000 });
  expect(stdout).toBe("1\nleft\n");
  expect(stderr).toBe("");
});
