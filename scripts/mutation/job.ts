// What the process that runs the tests is told, through a file, and what it tells back.

export interface Job {
  /** Replaces shaders/<module>.wgsl. Without it, a dry run, which notes what each test uses. */
  mutant: { module: string; source: string } | null;
  /** Absolute path of each test file → names of the tests to run, in order; null for all of them. */
  tests: Record<string, readonly string[] | null>;
}

/** The process writes its id here, so that it can be ended by it. */
export const pidFile = (jobFile: string) => `${jobFile}.pid`;

declare module "vitest" {
  interface TaskMeta {
    /** The modules and entry points that a test asked for, `module|entry`, and the overrides that it did not set, `module?NAME`. */
    uses?: readonly string[];
  }
}
