import { checkFunction, checkInteger, checkOptions, optionNames } from "../options.ts";
import type { HostBatch } from "../train/feed.ts";
import { BatchSampler, type BatchSamplerOptions } from "./loader.ts";

/** Options of `StreamLoader`. */
export interface StreamLoaderOptions<B extends HostBatch = HostBatch> extends BatchSamplerOptions {
  /** Makes the batch of these images: reads files, asks a server, decodes. `signal` is aborted when nobody wants it any more. */
  load(indices: Uint32Array, about: { epoch: number; index: number; signal: AbortSignal }): B | Promise<B>;
  /** Batches that are loaded at the same time, ahead of the one that is used. Default 2. */
  prefetch?: number;
}

const OPTIONS = optionNames<StreamLoaderOptions>({
  ...{ count: 0, batchSize: 0, seed: 0, shuffle: 0, dropLast: 0, load: 0, prefetch: 0 },
});

/**
 * Batches of data that need not fit in memory: no more than `prefetch` of them and the one in use are there at a time. Which images
 * make up a batch is what `DataLoader` takes for the same seed, so that a run resumes anywhere exactly.
 */
export class StreamLoader<B extends HostBatch = HostBatch> {
  readonly batchSize: number;
  readonly batchesPerEpoch: number;
  private readonly sampler: BatchSampler;
  private readonly load: StreamLoaderOptions<B>["load"];
  private readonly prefetch: number;

  /** @throws ShapeError, UsageError for options that are out of range */
  constructor(options: StreamLoaderOptions<B>, op = "StreamLoader") {
    checkOptions(op, options, OPTIONS);
    const { load, prefetch = 2, ...sampling } = options;
    checkFunction(op, "load", load);
    checkInteger(op, "prefetch", prefetch, 0, 2 ** 16);
    this.sampler = new BatchSampler(sampling, op);
    this.batchSize = sampling.batchSize;
    this.batchesPerEpoch = this.sampler.batchesPerEpoch;
    this.load = load;
    this.prefetch = prefetch;
  }

  /** The batches of one epoch, from number `start` on, in their order. */
  epoch(epoch: number, start = 0): AsyncGenerator<B, void> {
    checkInteger("StreamLoader", "epoch", epoch, 0, 2 ** 32 - 1);
    checkInteger("StreamLoader", "start", start, 0, this.batchesPerEpoch);
    return this.batches(epoch, start);
  }

  private async *batches(epoch: number, start: number): AsyncGenerator<B, void> {
    const end = new AbortController();
    const { signal } = end;
    const ahead: Promise<B>[] = [];
    let next = start;
    const fill = (count: number) => {
      for (; ahead.length < count && next < this.batchesPerEpoch; next += 1) {
        const index = next;
        const batch = (async () => this.load(this.sampler.indices(epoch, index), { epoch, index, signal }))();
        batch.catch(() => {}); // whoever gets there hears of it
        ahead.push(batch);
      }
    };
    try {
      for (;;) {
        fill(1);
        const batch = ahead.shift();
        if (!batch) return;
        fill(this.prefetch); // while this one is awaited and used
        yield await batch;
      }
    } finally {
      end.abort();
    }
  }
}
