/** By the names of tests: the largest cases, which take minutes in a page. `npm run test:swiftshader` runs them in Node. */
export const TOO_LARGE =
  /grid dimension|65,535|layers of a residual network|every variant|everything, more than/;
