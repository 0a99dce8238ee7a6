/**
 * Dawn's Node binding polls for finished work from JavaScript: while any of its promises is pending it asks
 * `globalThis.setImmediate` (looked up anew each time) to call its tick function, so the event loop spins and
 * one core burns. On a software adapter that core is missing where the work is done.
 *
 * The hybrid poll replaces `globalThis.setImmediate` by a function that treats Dawn's tick alone differently:
 * it spins for the first 0.1 ms of a wait, then pauses for an eighth of the time waited so far, up to 1 ms, so
 * a result is seen at most 12 % or about 1 ms late. Pauses under a millisecond block the thread in
 * `Atomics.wait` (timers are no finer than 1 ms), longer ones are timers. Everybody else's calls go straight
 * through. Dawn's tick is told apart by what only a function made by a native add-on is: anonymous, native, and
 * with a `prototype` (bound functions and promise resolvers are anonymous and native too, but have none).
 *
 * Measured with webgpu 0.6.2, Node 20, lavapipe (Mesa 25), two cores; wall and processor time in ms:
 *
 * | awaits of onSubmittedWorkDone         | stock       | timer of 1 ms after 0.3 ms | this        |
 * | 20 of a dispatch of 68 ms, each       | 2425 / 4612 | 1383 / 2655                | 1371 / 2658 |
 * | 20 of a dispatch of 2.7 ms, each      | 62 / 108    | 77 / 86                    | 54 / 89     |
 * | 100 of a dispatch of one workgroup    | 9 / 13      | 12 to 97 / 14 to 47        | 11 / 14     |
 * | 100 with nothing submitted            | 0.6 / 0.8   | 0.8 / 0.9                  | 0.8 / 0.9   |
 */
import { setImmediate as nodeSetImmediate, setTimeout as nodeSetTimeout } from "node:timers";

type Tick = () => void;

const SPIN_MS = 0.1;
const SHORTEST_PAUSE_MS = 0.05;
const PATIENCE = 1 / 8;

const NATIVE = /\{\s*\[native code\]\s*\}$/;

/** Is `callback` a function that a native add-on made, as Dawn's tick is? */
export function isNativeTick(callback: unknown): callback is Tick {
  return (
    typeof callback === "function" &&
    callback.length === 0 &&
    callback.name === "" &&
    Object.hasOwn(callback, "prototype") &&
    NATIVE.test(Function.prototype.toString.call(callback))
  );
}

/** How long to pause before the next look at a wait that has lasted `waited` ms; 0 means spin. */
export function pauseAfter(waited: number): number {
  if (waited < SPIN_MS) return 0;
  return Math.min(1, Math.max(SHORTEST_PAUSE_MS, waited * PATIENCE));
}

let uninstall: (() => void) | null = null;

/** Installs the hybrid poll for this thread, once. Returns a function that puts the former `setImmediate` back. */
export function installHybridPoll(): () => void {
  if (uninstall) return uninstall;
  const former = globalThis.setImmediate;
  const never = new Int32Array(new SharedArrayBuffer(4));
  let ticking = false;
  let began = 0;

  // Dawn asks for the next tick from within a tick for as long as the wait goes on, and from elsewhere when a
  // new one begins. Promise callbacks run after the tick has returned.
  const run = (tick: Tick) => {
    ticking = true;
    try {
      tick();
    } finally {
      ticking = false;
    }
  };

  const hybrid = (callback: (...args: unknown[]) => void, ...args: unknown[]) => {
    if (!isNativeTick(callback)) return former(callback, ...args);
    const now = performance.now();
    if (!ticking) began = now;
    const pause = pauseAfter(now - began);
    if (pause === 0) return nodeSetImmediate(run, callback);
    if (pause >= 1) return nodeSetTimeout(run, 1, callback);
    return nodeSetImmediate(() => {
      Atomics.wait(never, 0, 0, pause);
      run(callback);
    });
  };
  // `util.promisify(setImmediate)` and the like keep working.
  const replacement = Object.assign(hybrid, former) as unknown as typeof globalThis.setImmediate;
  globalThis.setImmediate = replacement;
  uninstall = () => {
    if (globalThis.setImmediate === replacement) globalThis.setImmediate = former;
    uninstall = null;
  };
  return uninstall;
}
