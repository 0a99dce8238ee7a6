// Partial sums over slices, added up: the last step of a convolution's gradients of weights and biases.

import type { Ending } from "../../autograd/tape.ts";
import { BINDING_ALIGNMENT, hull, type Storage } from "../../device/buffers.ts";
import type { Choice } from "../../device/variants.ts";
import * as shaders from "../../generated/shaders.ts";
import type { Gpu } from "../../gpu.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { inLayer, type OpContext } from "../define-op.ts";

/** A gradient [rows, count], and what its partial sums [slices, rows, count rounded up to a multiple of 4] are. */
export interface SliceSum {
  out: Tensor;
  slices: number;
  rows: number;
  count: number;
  /** Whether the lanes of a workgroup share the slices of a number. */
  shared: boolean;
  /** Whose time the sum counts for. */
  serves: readonly Choice[];
}

/** A sum and where its partial sums begin in their buffer, in vec4s. */
interface Placed extends SliceSum {
  at: number;
}

/** Gradients of one dispatch: what `Sums` of sum_partials.wgsl has places for. */
const MOST = 16;
/** Slices from which on the lanes of a workgroup share those of a number, on adapters with many lanes. */
export const MANY_SLICES = 32;
const WORKGROUP = 64;

/**
 * Bytes of partial sums that wait, little beside what is in memory at the beginning of the pass. A processor has them in its cache by
 * then, and each dispatch costs it less.
 */
function mostBytes({ isSoftware, stats, limits }: Gpu): number {
  const most = isSoftware ? LEAST_BYTES : Math.min(8 * LEAST_BYTES, stats.liveBytes / 8);
  return Math.min(Math.max(most, LEAST_BYTES), limits.maxStorageBufferBindingSize);
}

const LEAST_BYTES = 2 ** 22;

/** The vec4s that a gradient's partial sums take. */
export function vec4sOf({ slices, rows, count }: SliceSum): number {
  return slices * rows * Math.ceil(count / 4);
}

/** The sums of gradients of parameters that wait for the end of a backward pass, so that one dispatch does many of them. */
export class SliceSums implements Ending {
  private partials: Tensor | null = null;
  private used = 0;
  private waiting: Placed[] = [];

  constructor(private readonly gpu: Gpu) {}

  /** A place for the partial sums; what is written there before the next call is added up in time. */
  add(sum: SliceSum): Tensor {
    const vec4s = vec4sOf(sum);
    const bytes = Math.ceil((16 * vec4s) / BINDING_ALIGNMENT) * BINDING_ALIGNMENT;
    const room = this.partials?.byteLength ?? 0;
    if (this.waiting.length === MOST || this.used + bytes > room) this.run();
    if (bytes > room) {
      this.dispose();
      const size = Math.max(
        bytes,
        Math.min(MOST * bytes, Math.floor(mostBytes(this.gpu) / BINDING_ALIGNMENT) * BINDING_ALIGNMENT),
      );
      this.partials = this.gpu.keep(this.gpu.empty([size / 4]));
    }
    const place = this.partials!.part(this.used, [sum.slices, vec4s / sum.slices, 4]);
    this.waiting.push({ ...sum, at: this.used / 16 });
    this.used += bytes;
    return place;
  }

  run(): void {
    const wanted = this.waiting.filter(({ out }) => !out.isDisposed);
    this.waiting = [];
    this.used = 0;
    const groups: { storage: Storage; shared: boolean; sums: Placed[] }[] = [];
    for (const sum of wanted) {
      const { storage } = sum.out.range;
      const { shared } = sum;
      const group = groups.find((one) => one.storage === storage && one.shared === shared);
      if (group) group.sums.push(sum);
      else groups.push({ storage, shared, sums: [sum] });
    }
    // They serve several layers.
    inLayer(this.gpu, "conv2d backward", "", ({ run }) => {
      for (const { sums } of groups) addUp(run, this.partials!, sums);
    });
  }

  dispose(): void {
    this.partials?.dispose();
    this.partials = null;
  }
}

/** Adds up partial sums that lie in one buffer, of gradients all `shared` or none of them. */
export function addUp(run: OpContext["run"], partials: Tensor, sums: readonly Placed[]): void {
  const { shared } = sums[0]!;
  const { out, starts } = hull(sums.map((sum) => sum.out.range))!;
  const sizes = sums.flatMap(({ slices, rows, count, at }) => [slices, rows, count, at]);
  const vec4s = Math.max(...sums.map((sum) => vec4sOf(sum) / sum.slices));
  const entry = shared ? "sum_partials_workgroup" : "sum_partials";
  const serves = sums.flatMap((sum) => sum.serves);
  const bindings = { out, partials, sums: { sizes, out_at: starts.map((start) => start / 4) } };
  const workgroups = Math.min(1024, Math.ceil(vec4s / (shared ? 4 : WORKGROUP)));
  run({ shader: shaders.sum_partials, entry, serves }, bindings, [workgroups, sums.length]);
}
