import { Recent } from "./recent.ts";

interface Entry<V> {
  words: Uint32Array<ArrayBuffer>;
  value: V;
}

/**
 * A cache by lists of 32-bit words. Lists are compared by a hash and then word for word; of two with the same hash, which
 * hardly ever meet, the later one takes the place of the earlier.
 */
export class WordCache<V> {
  private readonly entries: Recent<number, Entry<V>>;
  private hash = 0;

  constructor(readonly capacity: number) {
    this.entries = new Recent(capacity);
  }

  get size(): number {
    return this.entries.size;
  }

  /** What was set for the first `count` of `words`. */
  get(words: Uint32Array, count: number): V | undefined {
    let hash = count;
    for (let i = 0; i < count; i += 1) {
      hash = Math.imul(hash ^ words[i]!, 0x9e3779b1);
      hash ^= hash >>> 15;
    }
    // Small integers are the fastest keys.
    this.hash = hash >>> 2;
    const entry = this.entries.get(this.hash);
    if (entry === undefined || entry.words.length !== count) return undefined;
    const { words: own } = entry;
    for (let i = 0; i < count; i += 1) if (own[i] !== words[i]) return undefined;
    return entry.value;
  }

  /** Sets it for the words that `get` was called with last. */
  set(words: Uint32Array, count: number, value: V): void {
    this.entries.set(this.hash, { words: words.slice(0, count) as Uint32Array<ArrayBuffer>, value });
  }

  *values(): Iterable<V> {
    for (const { value } of this.entries.values()) yield value;
  }

  clear(): void {
    this.entries.clear();
  }
}
