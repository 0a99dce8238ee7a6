// What bench/lib/sampling.ts uses of benny, which needs Node: each case of a suite, called once, in order.

interface Entry {
  name: string;
  run: () => Promise<void>;
}

interface Events {
  off(event: string): Events;
  on(event: string, listener: () => void): Events;
}

type Hook = () => Promise<(events: Events) => unknown>;

const isEntry = (one: Entry | Hook): one is Entry => typeof one !== "function";

export default {
  add: (name: string, run: () => Promise<void>): Entry => ({ name, run }),

  async suite(_name: string, ...parts: readonly (Entry | Hook)[]) {
    const started: (() => void)[] = [];
    const events: Events = {
      off: () => events,
      on(_event, listener) {
        started.push(listener);
        return events;
      },
    };
    for (const part of parts) if (!isEntry(part)) (await part())(events);
    for (const listener of started) listener();
    const results = [];
    for (const { name, run } of parts.filter(isEntry)) {
      const start = performance.now();
      await run();
      const seconds = (performance.now() - start) / 1e3;
      results.push({ name, samples: 1, details: { sampleResults: [seconds] } });
    }
    return { results };
  },
};
