/**
 * Files of other programs: safetensors, NumPy's, and weights as PyTorch names them.
 * @module fusenorm/formats
 */

export type { StoredType } from "./elements.ts";
export {
  type DecodeNpzOptions,
  decodeNpy,
  decodeNpz,
  type EncodeNpzOptions,
  encodeNpy,
  encodeNpz,
  type NpyOptions,
} from "./npy.ts";
export {
  decodeSafetensors,
  encodeSafetensors,
  type Safetensors,
  type SafetensorsOptions,
} from "./safetensors.ts";
export { fromTorch, type TorchOptions, torchStateDict } from "./torch.ts";
