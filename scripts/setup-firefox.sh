#!/bin/sh
# Installs Firefox on Debian and Ubuntu, in which the page is tested. Needs root or sudo. Safe to repeat.
set -eu

say() { echo "setup-firefox: $*"; }
fail() { echo "setup-firefox: $*" >&2; exit 1; }

for name in firefox firefox-esr; do
  if command -v "$name" >/dev/null 2>&1; then
    say "$name is installed already"
    exit 0
  fi
done
command -v apt-get >/dev/null 2>&1 || fail "install firefox with the system's package manager"

. "$(dirname "$0")/lib/as-root.sh"
as_root apt-get update
# Ubuntu's package firefox is a snap, which is no use to a program that drives it; FUSENORM_FIREFOX may name another one.
package=firefox
apt-cache show firefox-esr >/dev/null 2>&1 && package=firefox-esr
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$package"
