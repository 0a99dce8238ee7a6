// `npm run bench`, and `node dist/bench/main.js` of the built package.
import { runMain } from "./command.ts";

// Rows compare what the choosers take, not what was measured on this machine before.
process.env.FUSENORM_CHOICES ??= "off";
await runMain(process.argv.slice(2));
