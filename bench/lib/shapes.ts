import type { Size4 } from "./work.ts";

export interface NamedShape {
  /** Where it occurs: `resnet-20 stage 1`. */
  label: string;
  shape: Size4;
}

/** What batch-norm meets in the CIFAR ResNets (20 to 110 layers differ in how often, not in what). */
export function cifarShapes(batch: number): NamedShape[] {
  return [
    { label: "resnet-20/110 stage 1", shape: [batch, 32, 32, 16] },
    { label: "resnet-20/110 stage 2", shape: [batch, 16, 16, 32] },
    { label: "resnet-20/110 stage 3", shape: [batch, 8, 8, 64] },
  ];
}

/** What batch-norm meets in ResNet-50 on ImageNet: the stem, and in each stage the inner and the last convolution. */
export function imagenetShapes(batch: number): NamedShape[] {
  return [
    { label: "resnet-50 stem", shape: [batch, 112, 112, 64] },
    { label: "resnet-50 stage 1", shape: [batch, 56, 56, 64] },
    { label: "resnet-50 stage 1, last", shape: [batch, 56, 56, 256] },
    { label: "resnet-50 stage 2", shape: [batch, 28, 28, 128] },
    { label: "resnet-50 stage 2, last", shape: [batch, 28, 28, 512] },
    { label: "resnet-50 stage 3", shape: [batch, 14, 14, 256] },
    { label: "resnet-50 stage 3, last", shape: [batch, 14, 14, 1024] },
    { label: "resnet-50 stage 4", shape: [batch, 7, 7, 512] },
    { label: "resnet-50 stage 4, last", shape: [batch, 7, 7, 2048] },
  ];
}

/** Width-doubled first stage: the size that the targets are stated for. */
export const WIDE: NamedShape = { label: "resnet-20, width 32, stage 1", shape: [32, 32, 32, 32] };

export function elements(shape: Size4): number {
  return shape[0] * shape[1] * shape[2] * shape[3];
}
