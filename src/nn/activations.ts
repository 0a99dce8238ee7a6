// Activations as layers.

import {
  type Activation,
  activate,
  checkGelu,
  checkLeakyRelu,
  type GeluOptions,
  type LeakyReluOptions,
} from "../ops/activations.ts";
import { logSoftmax, softmax } from "../ops/softmax/softmax.ts";
import { MAX_RANK } from "../ops/strided.ts";
import { checkSoftplus, type SoftplusOptions, sigmoid, softplus, tanh } from "../ops/unary.ts";
import { checkInteger } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module } from "./module.ts";

/** Applies an activation to each element; right after a `BatchNorm2d` in a `Sequential`, in its pass over memory. */
export abstract class ActivationLayer extends Module {
  constructor(readonly activation: Activation) {
    super();
  }
  forward(x: Tensor): Tensor {
    return activate(this.constructor.name, x, this.activation);
  }
}

/** See `relu`. */
export class ReLU extends ActivationLayer {
  constructor() {
    super("relu");
  }
}

/** See `relu6`. */
export class ReLU6 extends ActivationLayer {
  constructor() {
    super("relu6");
  }
}

/** See `leakyRelu`. */
export class LeakyReLU extends ActivationLayer {
  constructor(options: LeakyReluOptions = {}) {
    super({ name: "leakyRelu", negativeSlope: checkLeakyRelu("LeakyReLU", options) });
  }
}

/** See `silu`. */
export class SiLU extends ActivationLayer {
  constructor() {
    super("silu");
  }
}

/** See `gelu`. */
export class GELU extends ActivationLayer {
  constructor(options: GeluOptions = {}) {
    super(checkGelu("GELU", options));
  }
}

/** See `hardSwish`. */
export class Hardswish extends ActivationLayer {
  constructor() {
    super("hardSwish");
  }
}

/** See `sigmoid`. */
export class Sigmoid extends Module {
  forward(x: Tensor): Tensor {
    return sigmoid(x);
  }
}

/** See `tanh`. */
export class Tanh extends Module {
  forward(x: Tensor): Tensor {
    return tanh(x);
  }
}

/** See `softplus`. */
export class Softplus extends Module {
  constructor(private readonly options: SoftplusOptions = {}) {
    super();
    checkSoftplus("Softplus", options);
  }
  forward(x: Tensor): Tensor {
    return softplus(x, this.options);
  }
}

/** Of an axis, the last one by default: the channels of maps, the classes of logits. See `softmax`. */
export class Softmax extends Module {
  constructor(readonly axis = -1) {
    super();
    checkInteger("Softmax", "axis", axis, -MAX_RANK, MAX_RANK - 1);
  }

  forward(x: Tensor): Tensor {
    return softmax(x, this.axis);
  }
}

/** Of an axis, the last one by default: the channels of maps, the classes of logits. See `logSoftmax`. */
export class LogSoftmax extends Module {
  constructor(readonly axis = -1) {
    super();
    checkInteger("LogSoftmax", "axis", axis, -MAX_RANK, MAX_RANK - 1);
  }

  forward(x: Tensor): Tensor {
    return logSoftmax(x, this.axis);
  }
}
