/**
 * Finding a GPU: which Vulkan loader and drivers to try, in which order, and what to take of what is found.
 *
 * Dawn opens `libvulkan.so.1` by that name, once per process, and the loader reads `VK_DRIVER_FILES` each time
 * an instance is made. So nothing needs to be set before the process starts: a loader that the system
 * lacks is opened from its path beforehand (its name is then taken), and the driver variables are set only while
 * an instance is made. No other process, no restart.
 */
import { existsSync, readdirSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { isMainThread } from "node:worker_threads";
import { DeviceError, UsageError } from "../errors.ts";
import { checkText, show } from "../options.ts";
import { type EmbeddedVulkan, embeddedVulkan } from "./embedded.ts";
import { openLibrary } from "./native.ts";

/** `software` is any other adapter without a GPU, Microsoft's WARP for instance. */
export type AdapterClass = "hardware" | "lavapipe" | "swiftshader" | "software";

const RANK: Record<AdapterClass, number> = { hardware: 3, lavapipe: 2, software: 1, swiftshader: 0 };

/** What the user asked for: the best there is, one class, or part of an adapter's name. */
export type AdapterWish =
  | { kind: "any" | "hardware" | "lavapipe" | "swiftshader" }
  | { kind: "name"; part: string };

/** Reads `FUSENORM_ADAPTER` or the option of the same meaning. */
export function parseWish(text: string | undefined): AdapterWish {
  if (text !== undefined) checkText("parseWish", "text", text);
  const word = text?.trim() ?? "";
  switch (word.toLowerCase()) {
    case "":
    case "any":
      return { kind: "any" };
    case "hardware":
      return { kind: "hardware" };
    case "lavapipe":
    case "llvmpipe":
      return { kind: "lavapipe" };
    case "swiftshader":
      return { kind: "swiftshader" };
    default:
      return { kind: "name", part: word };
  }
}

export interface AdapterText {
  vendor?: string;
  architecture?: string;
  device?: string;
  description?: string;
  isFallbackAdapter?: boolean;
}

/** The class of an adapter, from what it says of itself. */
export function classify(info: AdapterText): AdapterClass {
  if (info === null || typeof info !== "object" || Array.isArray(info)) {
    throw new UsageError(
      `classify: info is ${show(info)}; expected what an adapter says of itself, adapter.info`,
    );
  }
  const words = [info.vendor, info.architecture, info.device, info.description].join(" ").toLowerCase();
  if (words.includes("swiftshader")) return "swiftshader";
  if (/llvmpipe|lavapipe/.test(words)) return "lavapipe";
  if (info.isFallbackAdapter || /software|basic render|\bwarp\b/.test(words)) return "software";
  return "hardware";
}

/** What adapter discovery needs to know of a machine; the tests bring their own. */
export interface Machine {
  platform: NodeJS.Platform;
  env: NodeJS.ProcessEnv;
  /** Opens a Vulkan loader by name or path, so that Dawn finds it. False if there is none that works. */
  openLoader(nameOrPath: string): boolean;
  /** Driver manifests where the loader looks for them by itself. */
  manifests(): string[];
  /** Driver manifests in further places, where container hosts and NixOS put the hardware's. */
  extraManifests(): string[];
  embedded(): Promise<EmbeddedVulkan>;
}

/** One way to an adapter. */
export interface Route {
  /** How doctor and errors call it. */
  label: string;
  /** The best class that it can bring. */
  best: AdapterClass;
  /** Makes it ready, and gives the variables to set while the adapter is asked for. @throws DeviceError */
  prepare(): Promise<Record<string, string>>;
}

const SYSTEM_LOADER = "libvulkan.so.1";

// Loaders before 1.3.207 know only the second name; newer ones prefer the first.
function drivers(manifests: readonly string[]): Record<string, string> {
  return { VK_DRIVER_FILES: manifests.join(":"), VK_ICD_FILENAMES: manifests.join(":") };
}

function lavapipeManifests({ manifests }: Pick<Machine, "manifests">): string[] {
  return manifests().filter(isLavapipe);
}

/** Whether a driver manifest is that of Mesa's lavapipe. */
export function isLavapipe(manifest: string): boolean {
  return /lvp_icd|lavapipe/.test(manifest);
}

/** The ways to try for `wish` on this machine, the most promising first. */
export function routes(wish: AdapterWish, machine: Machine): Route[] {
  const { env } = machine;
  if (machine.platform !== "linux") {
    return [{ label: "the system's graphics drivers", best: "hardware", prepare: async () => ({}) }];
  }

  const loader = async () => {
    if (machine.openLoader(SYSTEM_LOADER)) return;
    const { loader } = await machine.embedded();
    if (!machine.openLoader(loader)) {
      throw new DeviceError(
        `adapter: the Vulkan loader ${loader} can't be opened; it needs a system with glibc (and Deno wants --allow-ffi), ` +
          "so install the system's own (libvulkan1 or vulkan-loader)",
      );
    }
  };
  const withDrivers = (manifests: readonly string[]) => async () => {
    await loader();
    return drivers(manifests);
  };

  const system: Route = {
    label: "the system's Vulkan drivers",
    best: "hardware",
    prepare: async () => {
      if (!env.VK_DRIVER_FILES && !env.VK_ICD_FILENAMES && machine.manifests().length === 0) {
        throw new DeviceError("no Vulkan driver is installed");
      }
      await loader();
      return {};
    },
  };
  const extra = machine.extraManifests();
  const aside: Route = {
    label: `Vulkan drivers of the host (${extra.join(", ")})`,
    best: "hardware",
    prepare: withDrivers(extra),
  };
  const mesa = lavapipeManifests(machine);
  const lavapipe: Route = {
    label: "Mesa's lavapipe",
    best: "lavapipe",
    prepare: async () => {
      if (mesa.length === 0) throw new DeviceError("not installed");
      return withDrivers(mesa)();
    },
  };
  const embedded: Route = {
    label: "embedded SwiftShader",
    best: "swiftshader",
    prepare: async () => {
      const { manifest } = await machine.embedded();
      return withDrivers([manifest])();
    },
  };

  switch (wish.kind) {
    case "hardware":
      return extra.length > 0 ? [system, aside] : [system];
    case "lavapipe":
      return [lavapipe];
    case "swiftshader":
      return [embedded];
    default:
      return extra.length > 0 ? [system, aside, embedded] : [system, embedded];
  }
}

/** What opening a route gave. */
export interface Found<A> {
  adapter: A;
  name: string;
  class: AdapterClass;
}

/** How adapters are asked for; the tests bring their own. */
export interface Opener<A> {
  /** The adapter that Dawn prefers with `env` set, or null. */
  open(env: Record<string, string>, name?: string): Promise<Found<A> | null>;
  /** The names of all adapters with `env` set. */
  list(env: Record<string, string>): Promise<string[]>;
}

export interface Discovery<A> extends Found<A> {
  route: Route;
  /** The driver variables that were set meanwhile. */
  env: Record<string, string>;
}

/**
 * Tries the routes for `wish` in turn and takes the best adapter; a route that could not do better than
 * what is there already is not tried.
 * @throws DeviceError naming what was found on each route, and what to do
 */
export async function discover<A>(
  wish: AdapterWish,
  machine: Machine,
  opener: Opener<A>,
): Promise<Discovery<A>> {
  let chosen: Discovery<A> | null = null;
  const notes: string[] = [];
  for (const route of routes(wish, machine)) {
    if (chosen && RANK[chosen.class] >= RANK[route.best]) continue;
    let env: Record<string, string>;
    try {
      env = await route.prepare();
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error;
      notes.push(error.message.startsWith(route.label) ? error.message : `${route.label}: ${error.message}`);
      continue;
    }
    if (wish.kind === "name") {
      const names = await opener.list(env);
      const name = names.find((name) => name.toLowerCase().includes(wish.part.toLowerCase()));
      notes.push(`${route.label}: ${names.join(", ") || "no adapter"}`);
      const found = name === undefined ? null : await opener.open(env, name);
      if (found) return { ...found, route, env };
      continue;
    }
    const found = await opener.open(env);
    notes.push(`${route.label}: ${found ? `${found.name} (${found.class})` : "no usable adapter"}`);
    if (!found || (wish.kind !== "any" && found.class !== wish.kind)) continue;
    if (!chosen || RANK[found.class] > RANK[chosen.class]) chosen = { ...found, route, env };
  }
  if (chosen) return chosen;
  throw new DeviceError(failure(wish, machine, notes));
}

function failure(wish: AdapterWish, machine: Machine, notes: readonly string[]): string {
  const found = `found ${notes.join("; ") || "nothing"}`;
  const worker = isMainThread
    ? ""
    : "; in a worker thread, start the worker with `env: SHARE_ENV` so that it may choose a driver";
  const onLinux = machine.platform === "linux";
  switch (wish.kind) {
    case "hardware":
      return `adapter: a hardware adapter was asked for; ${found}; install the GPU vendor's ${onLinux ? "Vulkan " : ""}driver, or leave the wish out (--adapter, FUSENORM_ADAPTER)${worker}`;
    case "lavapipe":
      return `adapter: lavapipe was asked for; ${found}; ${
        !onLinux
          ? "it exists on Linux"
          : lavapipeManifests(machine).length > 0
            ? "the one that is installed must be of Mesa 24 or newer"
            : "install Mesa 24 or newer (package `mesa-vulkan-drivers`; from a checkout, `npm run setup:lavapipe`)"
      }, or leave the wish out (--adapter, FUSENORM_ADAPTER)${worker}`;
    case "swiftshader":
      // On Linux, what was found says whether and how to get it.
      return `adapter: SwiftShader was asked for; ${found}; ${onLinux ? "" : "it exists on x64 Linux, or "}leave the wish out (--adapter, FUSENORM_ADAPTER)${worker}`;
    case "name":
      return `adapter: no adapter's name contains "${wish.part}"; ${found}; use one of these names or hardware, lavapipe or swiftshader, or leave the wish out (--adapter, FUSENORM_ADAPTER)${worker}`;
    default:
      return `adapter: there is none; ${found}; ${
        onLinux
          ? "install a Vulkan driver (the GPU vendor's, or `mesa-vulkan-drivers` 24 or newer for a software one)"
          : "install the GPU vendor's driver"
      }; \`npx fusenorm-cli doctor\` tells more${worker}`;
  }
}

/** Driver manifests in the folders where the Vulkan loader looks for them. */
function systemManifests(env: NodeJS.ProcessEnv): string[] {
  const home = env.HOME || homedir();
  const roots = [
    env.XDG_CONFIG_HOME || join(home, ".config"),
    ...(env.XDG_CONFIG_DIRS || "/etc/xdg").split(":"),
    "/etc",
    env.XDG_DATA_HOME || join(home, ".local/share"),
    ...(env.XDG_DATA_DIRS || "/usr/local/share:/usr/share").split(":"),
  ];
  return manifestsIn(roots.map((root) => join(root, "vulkan/icd.d")));
}

function manifestsIn(folders: readonly string[]): string[] {
  return [...new Set(folders)].flatMap((folder) => {
    if (!existsSync(folder)) return [];
    try {
      return readdirSync(folder)
        .filter((file) => file.endsWith(".json"))
        .map((file) => join(folder, file));
    } catch {
      return [];
    }
  });
}

/** Where some container hosts mount NVIDIA's driver, and where NixOS links the hardware's. */
const EXTRA_FOLDERS = ["/usr/local/nvidia/share/vulkan/icd.d", "/run/opengl-driver/share/vulkan/icd.d"];

/** What there is to find an adapter with, for `fusenorm doctor`. */
export interface Survey {
  /** Whether the system has a Vulkan loader (`libvulkan.so.1`) that can be opened. */
  systemLoader: boolean;
  manifests: string[];
  extraManifests: string[];
  /** Path of the embedded SwiftShader's manifest, or why there is none. */
  embedded: { manifest: string } | { missing: string };
  /** Variables that steer the choice, where set. */
  env: Record<string, string>;
}

/** Looks around without asking for an adapter. Linux only: other systems need no search. */
export async function survey(machine: Machine = thisMachine()): Promise<Survey> {
  if (typeof machine?.openLoader !== "function" || typeof machine.manifests !== "function") {
    throw new UsageError(`survey: machine is ${show(machine)}; expected a Machine, or nothing for this one`);
  }
  const steering = [
    "FUSENORM_ADAPTER",
    "FUSENORM_CACHE",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "LD_LIBRARY_PATH",
  ];
  return {
    systemLoader: machine.openLoader(SYSTEM_LOADER),
    manifests: machine.manifests(),
    extraManifests: machine.extraManifests(),
    embedded: await machine.embedded().then(
      ({ manifest }) => ({ manifest }),
      (error: Error) => ({ missing: error.message }),
    ),
    env: Object.fromEntries(
      steering.flatMap((name) => (machine.env[name] ? [[name, machine.env[name]!]] : [])),
    ),
  };
}

/** The machine that this process runs on. */
export function thisMachine(): Machine {
  return {
    platform: process.platform,
    env: process.env,
    // What was opened by a path must be found by its name, too: Dawn looks for that.
    openLoader: (nameOrPath) => openLibrary(nameOrPath) && openLibrary(SYSTEM_LOADER),
    manifests: () => systemManifests(process.env),
    extraManifests: () => manifestsIn(EXTRA_FOLDERS),
    embedded: () => embeddedVulkan(),
  };
}
