import { build } from "esbuild";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, posix } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";

// These look at what `npm run build` has left in dist.

const root = fileURLToPath(new URL("../..", import.meta.url));

/** What a page may have to load, in bytes. */
const bundleMax = 60_000;

test(`a browser bundle with everything is below ${bundleMax} bytes, gzipped`, async () => {
  const { outputFiles } = await build({
    stdin: { contents: `export * from "./dist/index.js"`, resolveDir: root },
    bundle: true,
    minify: true,
    format: "esm",
    platform: "browser",
    write: false,
    legalComments: "none",
  });
  const size = gzipSync(outputFiles[0]!.contents).length;
  console.log(`browser bundle: ${outputFiles[0]!.contents.length} bytes, ${size} gzipped`);
  expect(size).toBeLessThan(bundleMax);
});

test("the bundle for browsers has nothing of Node", async () => {
  const { metafile } = await build({ entryPoints: [join(root, "dist/index.js")], bundle: true, format: "esm", platform: "browser", write: false, metafile: true });
  expect(Object.keys(metafile.inputs).filter((path) => path.includes("connect-node") || path.endsWith("dist/node.js"))).toEqual([]);
});

let packed: string[];
beforeAll(() => {
  const [pack] = JSON.parse(execFileSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] })) as [
    { files: { path: string }[] },
  ];
  packed = pack.files.map((f) => f.path);
});

test("the package holds what it needs and nothing else", () => {
  expect(packed).toEqual(expect.arrayContaining(["package.json", "README.md", "LICENSE"]));
  const exported = Object.values((JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { exports: Record<string, string | Record<string, string>> }).exports);
  const entries = exported.flatMap((e) => (typeof e === "string" ? [e] : Object.values(e))).map((path) => posix.normalize(path));
  expect(packed).toEqual(expect.arrayContaining(entries));
  const strange = packed.filter((path) => !/^(dist\/([a-z.]+\/)*[a-z_.0-9]+\.(js|d\.ts)|dist\/gen\/.*_pb\.(js|d\.ts)|package\.json|README\.md|LICENSE)$/.test(path));
  expect(strange).toEqual([]);
  for (const path of packed.filter((p) => p.endsWith(".js"))) {
    expect(packed).toContain(path.replace(/\.js$/, ".d.ts"));
  }
});

test("whatever a file of the package imports is in it, or a dependency", () => {
  const { dependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { dependencies: Record<string, string> };
  for (const path of packed.filter((p) => p.startsWith("dist/"))) {
    for (const [, from] of readFileSync(join(root, path), "utf8").matchAll(/(?:from|import) ?\(?"([^"]+)"/g)) {
      if (from!.startsWith(".")) {
        expect(packed, `${path} imports ${from}`).toContain(posix.join(posix.dirname(path), from!));
      } else if (!from!.startsWith("node:")) {
        expect(Object.keys(dependencies), `${path} imports ${from}`).toContain(from!.match(/^(@[^/]+\/)?[^/]+/)![0]);
      }
    }
  }
});

test("versions are exact, those of Connect alike, and that of protobuf is its generator's", () => {
  const read = (path: string) => JSON.parse(readFileSync(join(root, path), "utf8")) as { dependencies: Record<string, string>; devDependencies: Record<string, string> };
  const { dependencies, devDependencies } = read("package.json");
  expect(Object.values({ ...dependencies, ...devDependencies }).filter((v) => !/^\d+\.\d+\.\d+$/.test(v))).toEqual([]);
  expect(new Set(Object.entries(dependencies).filter(([name]) => name.startsWith("@connectrpc/")).map(([, v]) => v))).toHaveLength(1);
  expect(dependencies["@bufbuild/protobuf"]).toBe(read("../../package.json").devDependencies["@bufbuild/protoc-gen-es"]);
});

const project = mkdtempSync(join(tmpdir(), "raftkv-pack-"));
afterAll(() => rmSync(project, { recursive: true, force: true }));

/** Puts the package where a program in `project` finds it. */
function install(): void {
  for (const path of packed) {
    const to = join(project, "node_modules/@raftkv/client", path);
    mkdirSync(dirname(to), { recursive: true });
    cpSync(join(root, path), to);
  }
  for (const scope of ["@bufbuild", "@connectrpc"]) {
    symlinkSync(join(root, "node_modules", scope), join(project, "node_modules", scope));
  }
}

/** Checks the types of a program, as nodenext and bundlers find them. */
function check(name: string, program: string): void {
  const file = join(project, name);
  writeFileSync(file, program);
  for (const module of ["nodenext", "preserve"]) {
    const args = ["--noEmit", "--strict", "--target", "es2022", "--module", module, "--lib", "es2022,dom", "--types", "node", "--typeRoots", join(root, "node_modules/@types"), file];
    execFileSync(join(root, "node_modules/.bin/tsc"), args, { cwd: project, stdio: "inherit" });
  }
}

const imports = `
  import { OutcomeUnknownError, PreconditionFailedError, createClient, json } from "@raftkv/client";
  import { connectNode } from "@raftkv/client/node";
  import { TestCluster } from "@raftkv/client/testing";
  import { connectWeb, grpcWeb } from "@raftkv/client/web";
`;

test("a program of its own can use the package, by every entry, with types", () => {
  install();
  const program = `${imports}
    const client = new TestCluster().client();
    await client.put("a", json([1]));
    createClient({ endpoints: ["h:1"], connect: connectNode({ protocol: "grpc" }) }).close();
    console.log((await client.get("a"))?.json(), [OutcomeUnknownError, PreconditionFailedError, connectWeb, grpcWeb].map((f) => f.name).join());
  `;
  expect(execFileSync(process.execPath, ["--input-type=module", "-e", program], { cwd: project, encoding: "utf8" })).toBe(
    "[ 1 ] OutcomeUnknownError,PreconditionFailedError,connectWeb,grpcWeb\n",
  );
  check("program.mts", program);
}, 60_000);

test("the examples of the README have the right types", () => {
  const examples = [...readFileSync(join(root, "README.md"), "utf8").matchAll(/```ts\n(.*?)```/gs)].map(([, code]) => code!.replace(/^import .*$/gm, ""));
  expect(examples.length).toBeGreaterThan(8);
  const around = `${imports}
    declare const client: ReturnType<typeof createClient>, signal: AbortSignal, endpoints: string[], ca: string, cert: string, key: string;
    declare function remember(token: string): void;
    declare function work(o: { signal: AbortSignal }): Promise<void>;
  `;
  check("examples.mts", around + examples.map((code, i) => `export async function example${i}() {\n${code}\n}\n`).join(""));
}, 60_000);
