/**
 * What only Node has: finding an adapter, files and downloads.
 * @module fusenorm/node
 */

export type {} from "../webgpu-names.ts";

export { type AdapterClass, classify, parseWish, type Survey, survey } from "./adapters.ts";
export {
  DATASET_NAMES,
  type DatasetName,
  embeddedDirectory,
  type FoundDataset,
  findDataset,
  loadDataset,
} from "./datasets.ts";
export {
  downloadFile,
  type FetchOptions,
  fetchDataset,
  REMOTE_DATASETS,
  type RemoteDataset,
  type RemoteFile,
  type RemoteName,
} from "./download.ts";
export { embeddedChromium, embeddedVulkan } from "./embedded.ts";
export { cacheDirectory } from "./files.ts";
export {
  decodeImage,
  type ImageOptions,
  type ImageSetOptions,
  type ImageStream,
  type ImageStreamOptions,
  loadImageFolder,
  loadParquetImages,
  type ParquetImageOptions,
  streamImageFolder,
} from "./images.ts";
export { installHybridPoll } from "./poll.ts";
export {
  type AdapterRequest,
  DEFAULT_TOGGLES,
  installNavigatorGpu,
  type NodeAdapter,
  type NodeGpuOptions,
  requestAdapter,
  requestGpu,
  type Toggles,
} from "./request.ts";
export { tensorBoardLog } from "./tensor-board.ts";
