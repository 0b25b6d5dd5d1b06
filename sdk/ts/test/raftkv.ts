import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect as dial, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** Built by `make build`. */
const binary = fileURLToPath(new URL("../../../bin/raftkv", import.meta.url));

/** The first of the ports that tests use: three nodes take this and the next two, and those 100, 200 and 300 above. */
export const basePort = Number(process.env["RAFTKV_TEST_PORT"] ?? 21_000);

function start(args: string[]): { child: ChildProcess; output: () => string } {
  const child = spawn(binary, args, { stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  child.stdout!.on("data", (chunk: Buffer) => (text += chunk));
  child.stderr!.on("data", (chunk: Buffer) => (text += chunk));
  return { child, output: () => text };
}

/** Waits until a condition holds; what it looks at changes by itself. */
export async function eventually(holds: () => Promise<boolean> | boolean, what: string): Promise<void> {
  for (const until = Date.now() + 60_000; !(await holds()); ) {
    if (Date.now() > until) {
      throw new Error(`not within a minute: ${what}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    child.kill(signal);
    await once(child, "exit");
  }
}

/** Runs a command of the binary, and returns what it prints. */
export async function run(...args: string[]): Promise<string> {
  const { child, output } = start(args);
  const [code] = (await once(child, "close")) as [number];
  if (code !== 0) {
    throw new Error(`raftkv ${args.join(" ")} has failed (${code}): ${output()}`);
  }
  return output();
}

/** A cluster that `raftkv demo` runs. */
export async function startDemo(port: number, ...args: string[]): Promise<{ endpoints: string[]; stop(): Promise<void> }> {
  const { child, output } = start(["demo", "--base-port", String(port), ...args]);
  await eventually(() => {
    if (child.exitCode !== null) {
      throw new Error(`raftkv demo has ended: ${output()}`);
    }
    return output().includes("are ready");
  }, "the demo is ready");
  return { endpoints: [0, 1, 2].map((i) => `127.0.0.1:${port + i}`), stop: () => end(child, "SIGTERM") };
}

/** Three nodes, each a process, which tests may kill. */
export class Nodes {
  readonly endpoints: string[];
  readonly #directory = mkdtempSync(join(tmpdir(), "raftkv-ts-"));
  readonly #children: ChildProcess[] = [];

  constructor(
    readonly port: number,
    readonly args: readonly string[] = [],
  ) {
    this.endpoints = [0, 1, 2].map((i) => `127.0.0.1:${port + i}`);
  }

  async start(): Promise<void> {
    this.endpoints.forEach((_, i) => this.launch(i));
    await Promise.all(this.endpoints.map((_, i) => this.ready(i)));
  }

  /** Starts a node. */
  launch(i: number): void {
    const peers = this.endpoints.map((endpoint, n) => `node${n + 1}:${endpoint}`).join(",");
    const port = String(this.port + i);
    const admin = String(this.port + i + 200);
    const named = ["--node-id", `node${i + 1}`, "--port", port, "--peers", peers, "--data-dir", join(this.#directory, String(i))];
    this.#children[i] = start(["serve", ...named, "--metrics-port", admin, "--health-check-port", admin, "--disk-reserve", "64MiB", ...this.args]).child;
  }

  /** Waits until a node serves. */
  async ready(i: number): Promise<void> {
    const url = `http://127.0.0.1:${this.port + i + 200}/readyz`;
    await eventually(() => fetch(url).then((r) => r.ok, () => false), `node ${i + 1} is ready`);
  }

  /** Ends a node without a chance for last words. */
  kill(i: number): Promise<void> {
    return end(this.#children[i]!, "SIGKILL");
  }

  /** The node that leads the only shard. */
  async leader(): Promise<number> {
    const url = `http://${this.endpoints[0]}/v1/locate?key=a`;
    const { leaderNodeId } = (await (await fetch(url)).json()) as { leaderNodeId: string };
    return Number(leaderNodeId.slice("node".length)) - 1;
  }

  async stop(): Promise<void> {
    await Promise.all(this.#children.map((child) => end(child, "SIGKILL")));
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** What stands between a client and a node, and can cut all connections, or be deaf to new ones. */
export class Proxy {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  constructor(port: number, target: number) {
    this.#server = createServer((socket) => {
      const upstream = dial(target, "127.0.0.1");
      for (const [one, other] of [[socket, upstream], [upstream, socket]] as const) {
        this.#sockets.add(one);
        one.on("error", () => other.destroy());
        one.on("close", () => (this.#sockets.delete(one), other.destroy()));
        one.pipe(other);
      }
    }).listen(port, "127.0.0.1");
  }

  /** Cuts all connections. */
  cut(): void {
    this.#sockets.forEach((socket) => socket.resetAndDestroy());
  }

  close(): void {
    this.cut();
    this.#server.close();
  }
}
