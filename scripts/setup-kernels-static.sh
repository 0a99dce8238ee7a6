#!/bin/sh
# Installs what `npm run kernels:static` needs beside Mesa (see setup-lavapipe.sh) on Debian and Ubuntu: a C compiler and the
# Vulkan headers. Needs root or sudo. Safe to repeat.
set -eu

say() { echo "setup-kernels-static: $*"; }
fail() { echo "setup-kernels-static: $*" >&2; exit 1; }

if echo '#include <vulkan/vk_icd.h>' | "${CC:-cc}" -fsyntax-only -x c - >/dev/null 2>&1; then
  say "a C compiler and the Vulkan headers are installed already"
  exit 0
fi
command -v apt-get >/dev/null 2>&1 || fail "install a C compiler and the Vulkan headers with the system's package manager (Fedora: gcc vulkan-headers; Arch: gcc vulkan-headers)"

. "$(dirname "$0")/lib/as-root.sh"
as_root apt-get update
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc libc6-dev libvulkan-dev
