import type { Commands } from "../device/commands.ts";
import type { Carrier, Rider } from "./ports.ts";

/** The dispatch that waits, at most until the next command, for something small to ride along. */
export class Riders {
  private carrier: Carrier | null = null;

  constructor(private readonly commands: Commands) {}

  /** To be called in place of a dispatch of which the next kernel needs nothing. What it binds is the carrier's to hold. */
  hold(carrier: Carrier): void {
    this.commands.hold(() => {
      this.carrier = null;
      carrier.run(null);
    });
    this.carrier = carrier;
  }

  /** Whether a dispatch waits at all. */
  get waits(): boolean {
    return this.carrier !== null;
  }

  /** Whether what waits has taken `rider` along; else the caller dispatches a kernel for it. */
  ride(rider: Rider): boolean {
    const { carrier } = this;
    if (!carrier?.takes(rider)) return false;
    this.commands.release();
    this.carrier = null;
    carrier.run(rider);
    return true;
  }

  /** Dispatches what waits: nothing is expected to ride along. */
  leave(): void {
    this.commands.settle();
  }
}
