// The GPUs that kernels are compiled for, as the model sees them.

export interface Chip {
  family: string;
  generation: "RDNA3" | "RDNA2" | "GCN";
  /** The card that the numbers are of. */
  card: string;
  units: number;
  /** Of a compute unit. */
  simds: number;
  /** Cycles that a SIMD takes for the fmas of 64 lanes, at best. */
  fmaCycles: number;
  /** Cycles from a load to its data, from the L2 cache. */
  latency: number;
  gigahertz: number;
  /** Of its memory, 10⁹ bytes a second. */
  bandwidth: number;
  /** Subgroup sizes; the first is what Dawn asks for. */
  waves: readonly number[];
}

const RDNA3 = { generation: "RDNA3", simds: 2, fmaCycles: 1, latency: 700, waves: [64, 32] } as const;
const RDNA2 = { generation: "RDNA2", simds: 2, fmaCycles: 2, latency: 600, waves: [64, 32] } as const;
const GCN = { generation: "GCN", simds: 4, fmaCycles: 4, latency: 600, waves: [64] } as const;

export const chips: readonly Chip[] = [
  { ...RDNA3, family: "navi31", card: "RX 7900 XTX", units: 96, gigahertz: 2.5, bandwidth: 960 },
  { ...RDNA2, family: "navi21", card: "RX 6900 XT", units: 80, gigahertz: 2.25, bandwidth: 512 },
  { ...GCN, family: "vega10", card: "RX Vega 64", units: 64, gigahertz: 1.55, bandwidth: 484 },
  { ...RDNA3, family: "navi33", card: "RX 7600", units: 32, gigahertz: 2.6, bandwidth: 288 },
  { ...RDNA2, family: "navi23", card: "RX 6600 XT", units: 32, gigahertz: 2.6, bandwidth: 256 },
  { ...GCN, family: "polaris10", card: "RX 480", units: 36, gigahertz: 1.27, bandwidth: 256 },
];

/** One of each generation. */
export const DEFAULT_FAMILIES = ["navi31", "navi21", "vega10"];

/** 10¹² float32 operations a second. */
export function peakOf({ units, simds, fmaCycles, gigahertz }: Chip): number {
  return (units * simds * (64 / fmaCycles) * 2 * gigahertz) / 1000;
}

/** Bytes that memory brings a compute unit in a cycle. */
export function bytesPerCycle({ bandwidth, units, gigahertz }: Chip): number {
  return bandwidth / units / gigahertz;
}
