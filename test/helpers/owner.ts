// Gives back, after each test of a file, what the test made.

import { afterEach } from "vitest";

interface Owner {
  /** Hands its argument through, and disposes of it after the test. */
  owned<T extends { dispose(): void }>(thing: T): T;
  /** Disposes of all of it at once, latest first. */
  release(): void;
}

/** To be called once in a file. */
export function owner(): Owner {
  const mine: { dispose(): void }[] = [];
  const release = () => {
    for (const thing of mine.splice(0).reverse()) thing.dispose();
  };
  afterEach(release);
  return {
    owned(thing) {
      mine.push(thing);
      return thing;
    },
    release,
  };
}
