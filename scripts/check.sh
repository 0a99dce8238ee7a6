#!/usr/bin/env bash
# `npm run check`: all that has to pass before a change lands, the quick parts first.
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
  echo "--- $1"
  shift
  "$@"
}

# A command of vitest. What was left by a worker that its driver ended is run once more, and named; tests that fail are not.
whole() {
  local left
  left=$(mktemp)
  FUSENORM_UNFINISHED=$left "$@" && return
  [ -s "$left" ] || return 1
  echo "A worker ended before these files did; once more: $(tr '\n' ' ' < "$left")"
  npx vitest run $(cat "$left")
}

step "style, types, dead code" npm run -s lint
npm run -s typecheck
npm run -s knip

step "the package" npm run -s build
npm run -s check:package
npm run -s api
npm run -s sizes
npm run -s test:types
npm run -s test:install

step "the page and the documentation site" npm run -s demo:build
npm run -s docs:build

# A driver that is not here is not asked for: see .ci/run, which installs it.
lavapipe=$(ls /usr/share/vulkan/icd.d/lvp_icd*.json 2>/dev/null || true)
step "kernels on the embedded SwiftShader, but for those that Chromium runs there" npm run -s test:swiftshader
if [ -n "$lavapipe" ]; then export FUSENORM_ADAPTER=lavapipe; fi
step "everything${lavapipe:+ on lavapipe}, with coverage" whole npm run coverage
