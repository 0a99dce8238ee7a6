import { tmpdir } from "node:os";
import { DeviceError } from "../errors.ts";
import { checkGpuOptions, checkPowerPreference, Gpu, type GpuOptions } from "../gpu.ts";
import { checkArray, checkOptions, checkText, optionNames } from "../options.ts";
import {
  type AdapterClass,
  classify,
  type Discovery,
  discover,
  type Found,
  parseWish,
  thisMachine,
} from "./adapters.ts";
import { keepChoices } from "./choices.ts";
import { CompileAhead, compilerOn, compilesLate } from "./compile-ahead.ts";
import { isDeno, setVariables } from "./native.ts";
import { installHybridPoll } from "./poll.ts";
import { withoutLines } from "./quiet.ts";

/** Dawn's switches, by name. */
export interface Toggles {
  enable: readonly string[];
  disable: readonly string[];
}

/** What is asked of Dawn unless the caller says otherwise. */
export const DEFAULT_TOGGLES: Toggles = {
  // Unsafe APIs are the experimental features (subgroup matrices, for instance); float16 is otherwise hidden on NVIDIA.
  enable: ["allow_unsafe_apis", "vulkan_enable_f16_on_nvidia"],
  // Timestamps are otherwise rounded to 65.5 µs.
  disable: ["timestamp_quantization"],
};

/** Which adapter is asked for, and with which toggles of Dawn. */
export interface AdapterRequest {
  /** `hardware`, `lavapipe`, `swiftshader` or part of an adapter's name. Default: `FUSENORM_ADAPTER`, else the best. */
  adapter?: string;
  powerPreference?: "low-power" | "high-performance";
  /** Further Dawn toggles, on top of `DEFAULT_TOGGLES`. */
  toggles?: Partial<Toggles>;
}

/** Options of `requestGpu`. */
export interface NodeGpuOptions extends GpuOptions, AdapterRequest {}

const ADAPTER_OPTIONS = optionNames<AdapterRequest>({ adapter: 0, powerPreference: 0, toggles: 0 });
const GPU_OPTIONS = optionNames<NodeGpuOptions>({
  ...{ adapter: 0, powerPreference: 0, toggles: 0, flushEvery: 0, debug: 0 },
});
const TOGGLES = optionNames<Toggles>({ enable: 0, disable: 0 });

/** @throws UsageError, ShapeError for values that no adapter can be asked for with. */
function checkRequest(op: string, { adapter, powerPreference, toggles = {} }: AdapterRequest): void {
  if (adapter !== undefined) checkText(op, "adapter", adapter);
  checkPowerPreference(op, powerPreference);
  checkOptions(op, toggles, TOGGLES, "toggles");
  const { enable = [], disable = [] } = toggles;
  for (const [name, names] of Object.entries({ enable, disable })) {
    checkArray(op, `toggles.${name}`, names, "names of Dawn's toggles");
    for (const toggle of names) checkText(op, `a toggle of ${name}`, toggle);
  }
}

/** An adapter with where it came from. */
export interface NodeAdapter {
  adapter: GPUAdapter;
  /** Dawn's entry point, as `navigator.gpu` is in browsers. */
  gpu: GPU;
  /** The adapter's name in full, e.g. `llvmpipe (LLVM 19.1.7, 256 bits)`. */
  name: string;
  class: AdapterClass;
  /** The way it was found, e.g. `the embedded SwiftShader`. */
  route: string;
  toggles: Toggles;
}

interface Dawn {
  create(flags: string[]): GPU;
  globals: Record<string, unknown>;
}

let dawn: Promise<Dawn> | null = null;

/** Loads Dawn, sets the WebGPU globals that aren't there yet, and installs the hybrid poll. */
async function loadDawn(): Promise<Dawn> {
  dawn ??= (async () => {
    if (isDeno) {
      // Deno has WebGPU of its own, and can't load Dawn's add-on beside it. It reads the driver variables at the first request.
      const gpu: GPU | undefined = globalThis.navigator?.gpu;
      if (!gpu)
        throw new DeviceError(
          "adapter: there is no navigator.gpu in this Deno; run it with --unstable-webgpu",
        );
      return { create: () => gpu, globals: {} };
    }
    let loaded: Dawn;
    try {
      loaded = (await import("webgpu")) as unknown as Dawn;
    } catch (cause) {
      const missing = (cause as NodeJS.ErrnoException).code === "ERR_MODULE_NOT_FOUND";
      throw new DeviceError(
        missing
          ? "adapter: the package `webgpu` (Dawn for Node) is not installed; run `npm install webgpu`"
          : `adapter: the package \`webgpu\` has no working build for ${process.platform} on ${process.arch}: ${(cause as Error).message}`,
        { cause },
      );
    }
    for (const [name, value] of Object.entries(loaded.globals)) {
      if (!(name in globalThis))
        Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
    }
    installHybridPoll();
    return loaded;
  })();
  // A failure isn't remembered: the caller may install the package and try again.
  dawn.catch(() => {
    dawn = null;
  });
  return dawn;
}

// Dawn crashes when its entry object is collected while a device of it lives, so each is kept for good. They are
// few: one per set of flags and drivers.
const instances = new Map<string, GPU>();

function instance({ create }: Dawn, flags: string[], env: Record<string, string>): GPU {
  const key = JSON.stringify([flags, env]);
  let gpu = instances.get(key);
  if (!gpu) {
    gpu = create(flags);
    instances.set(key, gpu);
  }
  return gpu;
}

/** How Dawn is asked for an adapter. */
let asking = <T>(ask: () => T): T => ask();

/**
 * Internal, for programs with an output of their own: keeps Dawn's warnings that it lowers two limits to what WebGPU has from
 * standard error.
 */
export function silenceDawn(): void {
  asking = (ask) => withoutLines(/^Warning: maxDynamic\w+PerPipelineLayout artificially reduced/, ask);
}

/** Runs `fn` with `drivers` set for native code, which reads it when an instance is made. */
async function withEnv<T>(drivers: Record<string, string>, fn: () => Promise<T>): Promise<T> {
  // Older Mesa complains on stderr where there is no session's folder, which it doesn't need here.
  const env = process.env.XDG_RUNTIME_DIR ? drivers : { ...drivers, XDG_RUNTIME_DIR: tmpdir() };
  const former = Object.fromEntries(Object.keys(env).map((name) => [name, process.env[name]]));
  setVariables(env);
  try {
    return await fn();
  } finally {
    setVariables(former);
  }
}

// One request at a time: the environment is the process's.
let queue: Promise<unknown> = Promise.resolve();

function inTurn<T>(fn: () => Promise<T>): Promise<T> {
  const result = queue.then(fn);
  queue = result.catch(() => {});
  return result;
}

function flagsFor(toggles: Toggles, name?: string): string[] {
  const flags = [];
  if (toggles.enable.length > 0) flags.push(`enable-dawn-features=${toggles.enable.join(",")}`);
  if (toggles.disable.length > 0) flags.push(`disable-dawn-features=${toggles.disable.join(",")}`);
  if (name !== undefined) flags.push(`adapter=${name}`);
  return flags;
}

/** The names in the message that Dawn gives when no adapter has the name asked for. */
export function namesInRefusal(message: string): string[] {
  return [...message.matchAll(/name: '(.*)'$/gm)].map((match) => match[1]!);
}

/** What the adapter says of itself that tells most: Dawn has a slug in `device`, Deno the name. */
function shortName({ device, description, vendor }: GPUAdapterInfo): string {
  return (/[ A-Z]/.test(device) ? device : description || device) || vendor;
}

/** Dawn's slug of an adapter's name, as `adapter.info.device` has it. */
function slug(name: string): string {
  return name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");
}

/**
 * Finds the best adapter (hardware, then lavapipe, then the embedded SwiftShader, unless told otherwise).
 * @throws DeviceError saying what was found and what to do
 */
export async function requestAdapter(options: AdapterRequest = {}): Promise<NodeAdapter> {
  checkOptions("requestAdapter", options, ADAPTER_OPTIONS);
  checkRequest("requestAdapter", options);
  const toggles: Toggles = {
    enable: [...DEFAULT_TOGGLES.enable, ...(options.toggles?.enable ?? [])],
    disable: [...DEFAULT_TOGGLES.disable, ...(options.toggles?.disable ?? [])],
  };
  const powerPreference = options.powerPreference ?? "high-performance";
  return inTurn(async () => {
    const loaded = await loadDawn();
    const namesWith = async (env: Record<string, string>) => {
      try {
        const none = instance(loaded, flagsFor(toggles, "\u0001no adapter has this name"), env);
        const adapter = await asking(() => none.requestAdapter());
        return adapter ? [shortName(adapter.info)] : []; // of Deno, which has one
      } catch (error) {
        return namesInRefusal((error as Error).message);
      }
    };
    const list = (env: Record<string, string>) => withEnv(env, () => namesWith(env));
    const open = (env: Record<string, string>, name?: string) =>
      withEnv(env, async (): Promise<Found<{ adapter: GPUAdapter; gpu: GPU }> | null> => {
        const gpu = instance(loaded, flagsFor(toggles, name), env);
        const adapter = await asking(() => gpu.requestAdapter({ powerPreference }));
        if (!adapter) return null;
        const { info } = adapter;
        return {
          adapter: { adapter, gpu },
          name: name ?? (await namesWith(env)).find((full) => slug(full) === info.device) ?? shortName(info),
          class: classify(info as GPUAdapterInfo & { isFallbackAdapter?: boolean }),
        };
      });
    const wish = parseWish(options.adapter ?? process.env.FUSENORM_ADAPTER);
    const found: Discovery<{ adapter: GPUAdapter; gpu: GPU }> = await discover(wish, thisMachine(), {
      open,
      list,
    });
    return { ...found.adapter, name: found.name, class: found.class, route: found.route.label, toggles };
  });
}

/**
 * A `Gpu` in Node: Dawn on the best adapter there is, with all its limits and features, and with the variants that `autotune`
 * chose on it before (in the cache, unless `FUSENORM_CHOICES=off`). End it with `gpu.destroy()`.
 * @throws DeviceError saying what was found and what to do
 */
export async function requestGpu(options: NodeGpuOptions = {}): Promise<Gpu> {
  checkOptions("requestGpu", options, GPU_OPTIONS);
  const { adapter: wish, powerPreference, toggles, ...rest } = options;
  checkRequest("requestGpu", options);
  checkGpuOptions("requestGpu", rest);
  const { adapter, name } = await requestAdapter({ adapter: wish, powerPreference, toggles });
  const gpu = await Gpu.fromAdapter(adapter, rest);
  gpu.info.name = name; // in full, where the adapter itself says a slug of it
  await keepChoices(gpu.variants);
  if (compilesLate(name)) {
    const open = async () => {
      const other = await requestAdapter({ adapter: wish, powerPreference, toggles });
      return compilerOn(other.adapter);
    };
    gpu.tellNewKernels(new CompileAhead(open));
  }
  return gpu;
}

/**
 * Sets `navigator.gpu` and the WebGPU globals, as other WebGPU libraries expect them, to the adapter that
 * `requestGpu` would take. Their waits get the same hybrid poll.
 */
export async function installNavigatorGpu(options: AdapterRequest = {}): Promise<NodeAdapter> {
  checkOptions("installNavigatorGpu", options, ADAPTER_OPTIONS);
  checkRequest("installNavigatorGpu", options);
  const found = await requestAdapter(options);
  if (!globalThis.navigator) {
    Object.defineProperty(globalThis, "navigator", {
      value: { userAgent: `Node.js/${process.versions.node.split(".")[0]}` },
      configurable: true,
      writable: true,
    });
  }
  Object.defineProperty(globalThis.navigator, "gpu", { value: found.gpu, configurable: true });
  return found;
}
