import { UsageError } from "../errors.ts";
import { checkArray, checkFunction, show } from "../options.ts";

/** The learning rate of step 0, 1, 2 … */
export type Schedule = (step: number) => number;

function checkNumber(schedule: string, name: string, value: unknown, low: number): void {
  if (!Number.isFinite(value) || (value as number) < low) {
    throw new UsageError(
      `${schedule}: ${name} is ${show(value)}; expected a finite number of at least ${low}`,
    );
  }
}

/** `lr`, multiplied by `gamma` from each of the `milestones` (steps) on. */
export function multiStep(lr: number, milestones: readonly number[], gamma = 0.1): Schedule {
  checkNumber("multiStep", "lr", lr, 0);
  checkNumber("multiStep", "gamma", gamma, 0);
  checkArray("multiStep", "milestones", milestones, "steps");
  for (const milestone of milestones) checkNumber("multiStep", "milestone", milestone, 0);
  return (step) => lr * gamma ** milestones.filter((milestone) => step >= milestone).length;
}

/** `lr`, multiplied by `gamma` every `size` steps. */
export function stepDecay(lr: number, size: number, gamma = 0.1): Schedule {
  checkNumber("stepDecay", "lr", lr, 0);
  checkNumber("stepDecay", "size", size, 1);
  checkNumber("stepDecay", "gamma", gamma, 0);
  return (step) => lr * gamma ** Math.floor(step / size);
}

/** Half a cosine from `lr` down to `minimum` over `totalSteps`; Loshchilov & Hutter (2017), without restarts. */
export function cosine(lr: number, totalSteps: number, minimum = 0): Schedule {
  checkNumber("cosine", "lr", lr, 0);
  checkNumber("cosine", "totalSteps", totalSteps, 1);
  checkNumber("cosine", "minimum", minimum, 0);
  return (step) =>
    minimum + ((lr - minimum) * (1 + Math.cos((Math.PI * Math.min(step, totalSteps)) / totalSteps))) / 2;
}

/** `schedule`, its first `steps` steps scaled up linearly: 1/steps, 2/steps … of its rate. */
export function warmup(schedule: Schedule, steps: number): Schedule {
  checkFunction("warmup", "schedule", schedule);
  checkNumber("warmup", "steps", steps, 0);
  return (step) => (step < steps ? (schedule(step) * (step + 1)) / steps : schedule(step));
}
