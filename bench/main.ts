// `npm run bench`, and `node dist/bench/main.js` of the built package.
import { runMain } from "./command.ts";

await runMain(process.argv.slice(2));
