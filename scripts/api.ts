// The public API as text, one file for each entry point: etc/core.api.md and so on. Run after `npm run build`, it fails
// where the declarations say something else; `-- --write` writes the files anew, for a reviewer to see what changes.
import { join } from "node:path";
import { Extractor, ExtractorConfig, ExtractorLogLevel } from "@microsoft/api-extractor";
import { root } from "./lib/package.ts";

// `fusenorm/data` and `fusenorm/formats` are parts of the core's.
const ENTRIES = {
  core: "dist/index.d.ts",
  node: "dist/node/index.d.ts",
  onnx: "dist/onnx/index.d.ts",
  experiments: "dist/experiments/index.d.ts",
};
const silent = { default: { logLevel: ExtractorLogLevel.None, addToApiReportFile: false } };
const write = process.argv.includes("--write");

for (const [name, entry] of Object.entries(ENTRIES)) {
  const config = ExtractorConfig.prepare({
    configObject: {
      projectFolder: root,
      mainEntryPointFilePath: join(root, entry),
      apiReport: {
        enabled: true,
        reportFileName: `${name}.api.md`,
        reportFolder: join(root, "etc"),
        reportTempFolder: join(root, "dist/bench/api"), // below dist/, and not packed
        includeForgottenExports: false,
      },
      compiler: {
        overrideTsconfig: {
          compilerOptions: {
            ...{
              module: "NodeNext",
              target: "ES2023",
              lib: ["ES2023", "DOM"],
              types: ["@webgpu/types", "node"],
            },
            ...{ strict: true, skipLibCheck: true },
          },
          files: [entry],
        },
      },
      messages: {
        compilerMessageReporting: silent,
        extractorMessageReporting: silent,
        tsdocMessageReporting: silent,
      },
    },
    configObjectFullPath: undefined,
    packageJsonFullPath: join(root, "package.json"),
  });
  const { apiReportChanged } = Extractor.invoke(config, {
    localBuild: write,
    messageCallback: (message) => {
      message.handled = true; // what there is to say is said here
    },
  });
  if (!apiReportChanged) continue;
  console.log(`etc/${name}.api.md ${write ? "is written anew" : "differs from the declarations"}`);
  if (!write) process.exitCode = 1;
}
if (process.exitCode)
  console.error("api: the public API has changed; if it is meant to, `npm run api -- --write`");
