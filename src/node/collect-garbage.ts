import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

let collect: (() => void) | null | undefined;

/**
 * Has V8 collect garbage, where it can be asked. Bind groups are small to V8, which lets tens of thousands of dead ones wait; on lavapipe
 * each keeps a mapping of memory, and Linux gives a process 65,530 of these (`vm.max_map_count`): the next one crashes it.
 */
export function collectGarbage(): void {
  if (collect === undefined) {
    try {
      setFlagsFromString("--expose-gc");
      collect = runInNewContext("gc") as () => void;
    } catch {
      collect = null; // Bun and Deno
    }
  }
  collect?.();
}
