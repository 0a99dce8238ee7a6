/**
 * A map that keeps what was used last: at most `capacity` entries, and always the `capacity / 2` that were used most
 * recently. What has not been used for a while is dropped half of the map at a time, so that a hit costs one look-up.
 * Dropped entries are not destroyed: whoever still holds one may go on using it.
 */
export class Recent<K, V> {
  private young = new Map<K, V>();
  private old = new Map<K, V>();

  constructor(readonly capacity: number) {}

  get size(): number {
    return this.young.size + this.old.size;
  }

  get(key: K): V | undefined {
    const value = this.young.get(key);
    if (value !== undefined) return value;
    const older = this.old.get(key);
    if (older !== undefined) this.set(key, older);
    return older;
  }

  set(key: K, value: V): void {
    if (this.young.size >= Math.max(1, this.capacity >> 1) && !this.young.has(key)) {
      this.old = this.young;
      this.young = new Map();
    }
    this.old.delete(key);
    this.young.set(key, value);
  }

  *values(): Iterable<V> {
    yield* this.young.values();
    yield* this.old.values();
  }

  clear(): void {
    this.young.clear();
    this.old.clear();
  }
}
