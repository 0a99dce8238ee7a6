// The files of shaders/, by their names. A name is that of the file, in whatever folder it stands: it is unique.

import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../shaders/", import.meta.url));

export interface ShaderFile {
  name: string;
  /** Below shaders/. */
  path: string;
  text: string;
}

/** @throws Error where two folders hold files of one name */
export function shaderFiles(): ShaderFile[] {
  const files = readdirSync(root, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".wgsl"))
    .map((file) => file.replaceAll("\\", "/"))
    .map((path) => {
      const name = path.replace(/^.*\/|\.wgsl$/g, "");
      return { name, path, text: readFileSync(`${root}${path}`, "utf8") };
    })
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const [i, { name, path }] of files.entries()) {
    const next = files[i + 1];
    if (next?.name === name)
      throw new Error(`shaders/${path} and shaders/${next.path} have one name; rename one`);
  }
  return files;
}
