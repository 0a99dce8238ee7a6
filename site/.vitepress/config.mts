// The documentation site: `docs/` of the checkout, the reference that typedoc writes into docs/api, and the demo where it is built.

import { existsSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitepress";

const root = fileURLToPath(new URL("../../", import.meta.url));
const withDemo = existsSync(`${root}demo/dist/index.html`);

// The reports are pages of their own, which scripts/docs.ts puts beside the results: links to them are none of VitePress's pages.
const reports = readdirSync(`${root}docs/results`, { withFileTypes: true })
  .filter((entry) => entry.isDirectory() && existsSync(`${root}docs/results/${entry.name}/report.html`))
  .map((entry) => `./${entry.name}/report`);

const guide = [
  {
    text: "Start",
    items: [
      { text: "First steps", link: "/guide/first-steps" },
      { text: "Train in the browser", link: "/guide/browser" },
      { text: "Fine-tune", link: "/guide/fine-tune" },
      { text: "Examples", link: "/examples/" },
      { text: "Commands", link: "/guide/commands" },
    ],
  },
  {
    text: "Go further",
    items: [
      { text: "A fused op in one sitting", link: "/guide/fused-op" },
      { text: "What is in the package", link: "/guide/package" },
      { text: "Bring your own device", link: "/guide/own-device" },
      { text: "Is my network healthy?", link: "/guide/healthy" },
      { text: "Limits and troubleshooting", link: "/guide/troubleshooting" },
    ],
  },
  {
    text: "Coming from",
    items: [
      { text: "PyTorch", link: "/guide/from-pytorch" },
      { text: "TensorFlow.js", link: "/guide/from-tensorflow" },
    ],
  },
  {
    text: "How it works",
    items: [
      { text: "How the fusion works", link: "/guide/fusion" },
      { text: "Architecture", link: "/architecture" },
      { text: "How the benchmark is measured", link: "/guide/benchmarks" },
      { text: "GPU evidence without a GPU", link: "/guide/gpu-evidence" },
      { text: "What can be relied on", link: "/reliability" },
      { text: "Design records", link: "/design/" },
    ],
  },
  {
    text: "Reference",
    items: [
      { text: "Ops", link: "/guide/ops" },
      { text: "Networks", link: "/networks" },
      { text: "Optimizers", link: "/optimizers" },
      { text: "Training", link: "/training" },
      { text: "Data", link: "/data" },
      { text: "The paper's experiments", link: "/experiments" },
      { text: "Their results", link: "/results/README" },
      { text: "API", link: "/api/" },
    ],
  },
];

export default defineConfig({
  title: "fusenorm",
  ignoreDeadLinks: reports,
  description: "WebGPU kernels for training convolutional networks",
  srcDir: `${root}docs`,
  outDir: `${root}site/dist/site`,
  cacheDir: `${root}site/dist/cache`,
  // The site may be served from a folder of a host: SITE_BASE=/fusenorm/ npm run docs:build.
  base: process.env.SITE_BASE ?? "/",
  cleanUrls: true,
  lastUpdated: false,
  // The demo stands beside the pages where it was built.
  transformPageData: (page) => {
    // The reference's pages have no order: each begins with the way back to its list.
    if (page.relativePath.startsWith("api/")) Object.assign(page.frontmatter, { prev: false, next: false });
    // Its tables want the width.
    if (page.relativePath.startsWith("results/")) page.frontmatter.aside = false;
    if (page.relativePath !== "index.md" || !withDemo) return;
    page.frontmatter.hero.actions.push({
      theme: "alt",
      text: "Watch it live",
      link: "/demo/",
      target: "_self",
    });
  },
  // Sizes in the text are multiplied: WGSL's angle brackets are no HTML.
  markdown: { html: true },
  themeConfig: {
    search: { provider: "local" },
    outline: [2, 3],
    nav: [
      { text: "Guide", link: "/guide/first-steps" },
      { text: "API", link: "/api/" },
      { text: "Experiments", link: "/experiments" },
      ...(withDemo ? [{ text: "Demo", link: "/demo/", target: "_self" }] : []),
    ],
    sidebar: guide,
  },
});
