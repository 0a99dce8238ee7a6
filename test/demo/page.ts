// The built demo in headless Chromium, on SwiftShader.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { BrowserContextOptions, Page } from "playwright-core";
import { build, preview } from "vite";
import { launch } from "../browser/harness.ts";

const root = fileURLToPath(new URL("../../demo", import.meta.url));

export interface Demo {
  /** Its address, without settings. */
  address: string;
  /** A fresh window; `problems` gathers what the page complains of. */
  open(
    hash?: string,
    options?: BrowserContextOptions & { init?: string },
  ): Promise<{ page: Page; problems: string[] }>;
  close(): Promise<void>;
}

/** Builds the page as `npm run demo:build` does, and serves it. */
export async function serveDemo(): Promise<Demo> {
  const outDir = mkdtempSync(join(tmpdir(), "fusenorm-demo-"));
  const configFile = join(root, "vite.config.ts");
  await build({ configFile, logLevel: "silent", build: { outDir } });
  const server = await preview({
    configFile,
    logLevel: "silent",
    build: { outDir },
    preview: { host: "127.0.0.1", port: 0 },
  });
  const address = server.resolvedUrls!.local[0]!;
  const browser = await launch();
  return {
    address,
    async open(hash = "", { init, ...options } = {}) {
      // Chromium takes the machine's locale, `en-US@posix` in a container, which `Intl` refuses.
      const page = await browser.newPage({ locale: "en-US", ...options });
      const problems: string[] = [];
      page.on("console", (message) => {
        if (message.type() === "error") problems.push(message.text());
      });
      page.on("pageerror", (error) => problems.push(String(error)));
      if (init) await page.addInitScript(init);
      await page.goto(address + hash);
      return { page, problems };
    },
    async close() {
      await browser.close();
      await server.close();
      rmSync(outDir, { recursive: true, force: true });
    },
  };
}
