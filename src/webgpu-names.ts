// Names of the platform that the package's declarations use. Where the DOM's library or `@webgpu/types` declares them, these empty
// interfaces merge with theirs; where nothing does, as with older TypeScript or without the DOM, the declarations are complete
// all the same. Names of interfaces only: an alias such as GPUPowerPreference would clash.
declare global {
  interface AbortSignal {}
  interface Blob {}
  interface GPU {}
  interface GPUAdapter {}
  interface GPUAdapterInfo {}
  interface GPUBindGroup {}
  interface GPUBindGroupLayout {}
  interface GPUBuffer {}
  interface GPUCommandEncoder {}
  interface GPUComputePassEncoder {}
  interface GPUComputePassDescriptor {}
  interface GPUComputePipeline {}
  interface GPUDevice {}
  interface GPUSupportedLimits {}
}

export {};
