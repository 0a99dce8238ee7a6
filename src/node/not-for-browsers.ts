// What a bundler for browsers gets for `fusenorm/node`: its build fails at the first name that is imported from here, and a page
// that gets this far is told why.
import { UsageError } from "../errors.ts";

/** Without a name of its own a module has none that is missing, to some bundlers. */
export const notForBrowsers: boolean = true;

throw new UsageError(
  'fusenorm/node: it is for Node, Bun and Deno; in a browser use Gpu.request() of "fusenorm", and fetch the data yourself',
);
