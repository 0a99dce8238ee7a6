// A program with a GPU device of its own: its kernel draws a chessboard into its buffer, fusenorm smooths it there, and the program
// copies the result out of fusenorm's buffer. Nothing goes over the host in between.
import { conv2d, Gpu, Tensor } from "fusenorm";
import { requestAdapter } from "fusenorm/node"; // in a page: navigator.gpu

const size = 32;
const bytes = 4 * size * size;
const entry = (await requestAdapter()).gpu; // kept for as long as its devices live
const device = await (await entry.requestAdapter()).requestDevice();
const { STORAGE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;

const image = device.createBuffer({ size: bytes, usage: STORAGE | COPY_SRC | COPY_DST });
const code = `
  @group(0) @binding(0) var<storage, read_write> image: array<f32>;
  @compute @workgroup_size(8, 8) fn draw(@builtin(global_invocation_id) id: vec3<u32>) {
    image[id.y * ${size} + id.x] = f32((id.x + id.y) % 2);
  }`;
const compute = { module: device.createShaderModule({ code }) };
const pipeline = device.createComputePipeline({ layout: "auto", compute });
const layout = pipeline.getBindGroupLayout(0);
const drawing = device.createCommandEncoder();
const pass = drawing.beginComputePass();
pass.setPipeline(pipeline);
pass.setBindGroup(
  0,
  device.createBindGroup({ layout, entries: [{ binding: 0, resource: { buffer: image } }] }),
);
pass.dispatchWorkgroups(size / 8, size / 8);
pass.end();
device.queue.submit([drawing.finish()]);

const gpu = Gpu.fromDevice(device);
const x = Tensor.fromBuffer(image, [1, size, size, 1], { gpu });
const weight = gpu.tensor(
  [1, 2, 1, 2, 4, 2, 1, 2, 1].map((w) => w / 16),
  [1, 3, 3, 1],
);
const smooth = conv2d(x, weight, { padding: 1 });

const readable = device.createBuffer({ size: bytes, usage: MAP_READ | COPY_DST });
const copying = device.createCommandEncoder();
copying.copyBufferToBuffer(smooth.buffer, 0, readable, 0, bytes); // `buffer` asks for the elements
device.queue.submit([copying.finish()]);
await readable.mapAsync(GPUMapMode.READ);
const pixels = new Float32Array(readable.getMappedRange());
console.log(`of 0 and 1 the middle has become ${pixels[16 * size + 16]} and ${pixels[16 * size + 17]}`);
gpu.destroy(); // frees what fusenorm made; the device stays the program's
device.destroy();
