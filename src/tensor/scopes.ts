import { synchronous } from "../options.ts";
import { Tensor } from "./tensor.ts";

/** Who disposes of which tensors: the innermost scope that was open when they were made. */
export class Scopes {
  private readonly open: Set<Tensor>[] = [];

  /** Runs `fn` and disposes every tensor made in it, except those that it returns, which `returned` is told of. */
  run<T>(op: string, fn: () => T, returned?: Set<Tensor>): T {
    const made = new Set<Tensor>();
    this.open.push(made);
    let result: T | undefined;
    try {
      result = synchronous(op, fn());
      return result;
    } finally {
      this.open.splice(this.open.lastIndexOf(made), 1);
      const outer = this.open.at(-1);
      for (const kept of tensorsIn(result)) {
        if (!made.delete(kept)) continue;
        outer?.add(kept);
        returned?.add(kept);
      }
      for (const tensor of made) tensor.dispose();
    }
  }

  track(tensor: Tensor): void {
    this.open.at(-1)?.add(tensor);
  }

  keep(tensor: Tensor): void {
    for (const scope of this.open) scope.delete(tensor);
  }
}

/** The tensors that a function returned, alone or in arrays and objects. */
export function* tensorsIn(value: unknown, depth = 0): Iterable<Tensor> {
  if (value instanceof Tensor) yield value;
  else if (value && typeof value === "object" && depth < 4 && !ArrayBuffer.isView(value)) {
    for (const item of Object.values(value)) yield* tensorsIn(item, depth + 1);
  }
}
