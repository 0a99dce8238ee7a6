// Firefox, headless, driven over WebDriver BiDi, with WebGPU on the machine's Vulkan driver: lavapipe where there is no other.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Browser, launch, type Page } from "puppeteer-core";
import { isLavapipe, thisMachine } from "../../src/node/adapters.ts";

export const PREFERENCES = {
  "dom.webgpu.enabled": true,
  "dom.webgpu.workers.enabled": true,
  "gfx.webgpu.ignore-blocklist": true,
  // Nobody's browser but the tests': without its sandboxes it also runs as root in a container.
  "security.sandbox.content.level": 0,
  "security.sandbox.gpu.level": 0,
  "browser.shell.checkDefaultBrowser": false,
  "datareporting.policy.dataSubmissionEnabled": false,
  "app.update.enabled": false,
};

/** The path of `FUSENORM_FIREFOX`, or of the `firefox` that this machine has; null where there is none. */
export function findFirefox(): string | null {
  if (process.env.FUSENORM_FIREFOX) return process.env.FUSENORM_FIREFOX;
  for (const name of ["firefox", "firefox-esr"]) {
    try {
      return execFileSync("/bin/sh", ["-c", `command -v ${name}`], { encoding: "utf8" }).trim();
    } catch {}
  }
  return null;
}

/** Why there is no Firefox to test in; null where there is one. */
export function whyNoFirefox(): string | null {
  if (!findFirefox()) return "there is no firefox on the PATH, and FUSENORM_FIREFOX names none";
  return thisMachine().manifests().length > 0 ? null : "this machine has no Vulkan driver for Firefox";
}

export interface Firefox {
  browser: Browser;
  /** A fresh tab; `problems` gathers what the page complains of. */
  open(): Promise<{ page: Page; problems: string[] }>;
  close(): Promise<void>;
}

export async function launchFirefox(): Promise<Firefox> {
  // Firefox wants a home that it may write to, and Vulkan drivers a folder for what they keep at run time.
  const home = mkdtempSync(join(tmpdir(), "fusenorm-firefox-"));
  const lavapipe = thisMachine().manifests().filter(isLavapipe).join(":");
  const browser = await launch({
    browser: "firefox",
    executablePath: findFirefox()!,
    headless: true,
    extraPrefsFirefox: PREFERENCES,
    protocolTimeout: 600_000,
    env: {
      ...process.env,
      HOME: home,
      XDG_RUNTIME_DIR: process.env.XDG_RUNTIME_DIR ?? home,
      ...(lavapipe ? { VK_DRIVER_FILES: lavapipe } : {}),
    },
  });
  return {
    browser,
    async open() {
      const page = await browser.newPage();
      const problems: string[] = [];
      page.on("console", (message) => {
        if (message.type() === "error") problems.push(message.text());
      });
      page.on("pageerror", (error) => problems.push(String(error)));
      return { page, problems };
    },
    async close() {
      await browser.close();
      // Its helpers may still be writing.
      rmSync(home, { recursive: true, force: true, maxRetries: 20 });
    },
  };
}
