/** Elements that are not in memory, and can be worked out. */
export interface Waiting {
  /** Whether somebody may still ask for the elements. */
  readonly isWanted: boolean;
  resolve(): void;
}

/** Kernels that may wait for what comes after them; more hold on to too much memory. */
const MOST_KERNELS = 32;

/** Everything that is not in memory yet, oldest first. */
export class Pending {
  private readonly all = new Set<Waiting>();
  /** Those that a submit is expected to hold. */
  private readonly due = new Set<Waiting>();
  private readonly kernels = new Set<Waiting>();

  /**
   * `isKernel`: a kernel that has not run, rather than a way to work elements out when they are needed. `isBorrowed`: it reads
   * a caller's own buffer, which the caller may overwrite once what was asked for is submitted.
   */
  add(waiting: Waiting, isKernel: boolean, isBorrowed: boolean): void {
    this.all.add(waiting);
    if (isKernel || isBorrowed) this.due.add(waiting);
    if (!isKernel) return;
    this.kernels.add(waiting);
    const [oldest] = this.kernels;
    if (this.kernels.size > MOST_KERNELS) oldest!.resolve();
  }

  delete(waiting: Waiting): void {
    this.all.delete(waiting);
    this.due.delete(waiting);
    this.kernels.delete(waiting);
  }

  /** Works out what a submit is expected to hold, if somebody may still ask for it. */
  run(): void {
    for (const waiting of this.due) if (waiting.isWanted) waiting.resolve();
  }

  /** Works out everything that somebody may still ask for. */
  settle(): void {
    for (const waiting of this.all) if (waiting.isWanted) waiting.resolve();
  }

  clear(): void {
    this.all.clear();
    this.due.clear();
    this.kernels.clear();
  }
}
