import { defineConfig } from "vitest/config";

// `cluster` and `browser` run real clusters on fixed ports, so their files run one after the other.
export default defineConfig({
  test: {
    projects: [
      { test: { name: "unit", include: ["test/unit/**/*.test.ts"] } },
      { test: { name: "cluster", include: ["test/cluster/**/*.test.ts"], fileParallelism: false, testTimeout: 60_000, hookTimeout: 90_000 } },
      { test: { name: "browser", include: ["test/browser/**/*.test.ts"], fileParallelism: false, testTimeout: 60_000, hookTimeout: 90_000 } },
    ],
  },
});
