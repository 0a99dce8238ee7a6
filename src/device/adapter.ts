/** What the adapter says of itself, and whether a processor does its work. */
export interface AdapterSummary {
  /** The most telling name it gives, e.g. `llvmpipe (LLVM 19.1.7, 256 bits)`. */
  name: string;
  vendor: string;
  architecture: string;
  description: string;
  class: "hardware" | "software";
}

const WANTED_FEATURES: GPUFeatureName[] = [
  "timestamp-query",
  "shader-f16",
  "subgroups",
  "chromium-experimental-subgroup-matrix" as GPUFeatureName,
];

const WANTED_LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
  "maxComputeWorkgroupsPerDimension",
] as const;

/** A device with every limit and optional feature of `adapter` that the kernels can use. */
export async function requestDevice(adapter: GPUAdapter): Promise<GPUDevice> {
  const requiredLimits: Record<string, number> = {};
  for (const name of WANTED_LIMITS) requiredLimits[name] = adapter.limits[name];
  return adapter.requestDevice({
    requiredLimits,
    requiredFeatures: WANTED_FEATURES.filter((feature) => adapter.features.has(feature)),
  });
}

/** A device's limits as plain numbers: each look at its own is a call into the browser or the native module. */
export function limitsOf(device: GPUDevice): GPUSupportedLimits {
  const limits: Record<string, number> = {};
  for (const name in device.limits) {
    const value: unknown = device.limits[name as keyof GPUSupportedLimits];
    if (typeof value === "number") limits[name] = value;
  }
  return limits as unknown as GPUSupportedLimits;
}

export function summarize(info: GPUAdapterInfo | undefined): AdapterSummary {
  const { vendor = "", architecture = "", description = "", device = "" } = info ?? {};
  // Mesa and SwiftShader put a slug into `device` and the readable name into `description`.
  const name =
    (/[ A-Z]/.test(device) ? device : description || device) ||
    [vendor, architecture].filter(Boolean).join(" ") ||
    "unnamed adapter";
  const words = `${vendor} ${architecture} ${description} ${device}`.toLowerCase();
  const software = /swiftshader|llvmpipe|lavapipe|software|basic render|\bwarp\b/.test(words);
  const fallback = (info as { isFallbackAdapter?: boolean } | undefined)?.isFallbackAdapter === true;
  return { name, vendor, architecture, description, class: software || fallback ? "software" : "hardware" };
}
