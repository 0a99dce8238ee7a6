import { defineConfig } from "vitest/config";

// One worker: the software adapters use every core themselves, and GPU timing-free
// tests gain nothing from contending for the device.
export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    pool: "forks",
    maxWorkers: 1,
    isolate: false,
    env: { FUSENORM_CHOICES: "off" },
    testTimeout: 400_000,
    hookTimeout: 400_000,
    coverage: {
      provider: "v8",
      include: ["src/**"],
      exclude: ["src/generated/**"],
      reporter: ["text-summary"],
      // A little under what the whole suite reaches: see docs/reliability.md.
      thresholds: { statements: 90, branches: 87, functions: 90, lines: 90 },
    },
  },
});
