// What the compiler knows of a kernel call, by reflection: `npm run check:shaders` fails where one of these lines is no error.

import { describe, expect, it } from "vitest";
import { link } from "../../src/device/link.ts";
import * as shaders from "../../src/generated/shaders.ts";
import type { Gpu } from "../../src/gpu.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";

function calls(gpu: Gpu, out: Tensor, x: Tensor): void {
  const { softmax, activation } = shaders;
  const sizes = { rows: 1, classes: 1 };
  gpu.dispatch(
    { shader: softmax, entry: "forward", constants: { WORKGROUP_SIZE: 8 } },
    { out, x, sizes },
    [1],
  );
  gpu.dispatch(
    { shader: link(activation, { activation: "activation_silu" }), entry: "forward" },
    { out, x, size: { vec4s: 1 } },
    [1],
  );
  // @ts-expect-error there is no such module
  gpu.dispatch({ shader: "softmix", entry: "forward" }, { out, x, sizes }, [1]);
  // @ts-expect-error nor entry point
  gpu.dispatch({ shader: softmax, entry: "forwards" }, { out, x, sizes }, [1]);
  // @ts-expect-error nor constant
  gpu.dispatch({ shader: softmax, entry: "forward", constants: { WORKGROUPS: 8 } }, { out, x, sizes }, [1]);
  // @ts-expect-error x is missing
  gpu.dispatch({ shader: softmax, entry: "forward" }, { out, sizes }, [1]);
  // @ts-expect-error y is another entry point's
  gpu.dispatch({ shader: softmax, entry: "forward" }, { out, x, y: x, sizes }, [1]);
  // @ts-expect-error a field is missing
  gpu.dispatch({ shader: softmax, entry: "forward" }, { out, x, sizes: { rows: 1 } }, [1]);
  // @ts-expect-error a uniform is no tensor
  gpu.dispatch({ shader: softmax, entry: "forward" }, { out, x, sizes: x }, [1]);
  // @ts-expect-error a part for another hole
  link(activation, { activation: "load_plain" });
  // @ts-expect-error a module without that hole
  link(softmax, { activation: "activation_relu" });
}

describe("kernel calls", () => {
  it("are checked by the compiler, above", () => expect(calls).toHaveLength(3));
});
