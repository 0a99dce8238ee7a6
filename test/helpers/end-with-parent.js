// Loaded before anything else in the processes that tests start, and in the workers of the test run: they end when their parent has
// ended, however it did. Not by a signal of the parent, which may be killed; a process whose parent is gone gets another one. Where
// the system does not say so (Windows), nothing is done.

const parent = process.ppid;
const watch = setInterval(() => {
  if (process.ppid !== parent) process.exit(1);
}, 1000);
watch.unref();
