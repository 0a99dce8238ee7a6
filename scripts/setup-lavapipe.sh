#!/bin/sh
# Installs Mesa's lavapipe, the fast software Vulkan driver, on Debian and Ubuntu. Needs root or sudo. Safe to repeat.
#   scripts/setup-lavapipe.sh [--dry-run]
# Dawn needs Mesa 24 or newer. Debian 13 and Ubuntu 24.04 have it; Debian 12 gets it from its backports suite,
# on the mirror and with the keyring that the machine uses already.
set -eu

# The folder of another system's files, for rehearsals on them (the tests); nothing is ever changed there.
root=${FUSENORM_SYSTEM_ROOT:-}
dry=${root:+yes}
case "${1:-}" in
  "") ;;
  --dry-run) dry=yes ;;
  *) echo "setup-lavapipe: unknown argument $1; the only one is --dry-run" >&2; exit 2 ;;
esac

say() { echo "setup-lavapipe: $*"; }
fail() { echo "setup-lavapipe: $*" >&2; exit 1; }

[ "$(uname -s)" = Linux ] || fail "lavapipe is for Linux; on macOS and Windows the system's own GPU driver is used, and nothing needs to be installed"
[ -r "$root/etc/os-release" ] || fail "there is no /etc/os-release to tell the distribution; install Mesa's Vulkan drivers, 24 or newer, with the system's package manager"
. "$root/etc/os-release"

case "${ID:-} ${ID_LIKE:-}" in
  *debian* | *ubuntu*) ;;
  *fedora* | *rhel* | *centos*) fail "on ${PRETTY_NAME:-this system}, install the package mesa-vulkan-drivers: dnf install mesa-vulkan-drivers vulkan-loader" ;;
  *arch*) fail "on ${PRETTY_NAME:-this system}, install the package vulkan-swrast: pacman -S vulkan-swrast vulkan-icd-loader" ;;
  *suse*) fail "on ${PRETTY_NAME:-this system}, install the package libvulkan_lvp: zypper install libvulkan_lvp libvulkan1" ;;
  *alpine*) fail "on ${PRETTY_NAME:-this system} Dawn's build for Node does not run, since it needs glibc; use Debian, Ubuntu or Fedora" ;;
  *) fail "${PRETTY_NAME:-this system} is not known here; install Mesa's Vulkan drivers (lavapipe), 24 or newer, with its package manager" ;;
esac

. "$(dirname "$0")/lib/as-root.sh"

# Prints the command; runs it, as root, unless this is a rehearsal.
step() {
  say "+ $*"
  [ -n "$dry" ] || as_root "$@"
}

if [ -z "$root" ]; then
  state=$(dpkg-query -W -f='${db:Status-Status} ${Version}' mesa-vulkan-drivers 2>/dev/null || true)
  version=${state#installed }
  if [ "$version" != "$state" ]; then
    if dpkg --compare-versions "$version" ge 24; then
      say "mesa-vulkan-drivers $version is installed already"
      exit 0
    fi
    say "mesa-vulkan-drivers $version is installed, but Dawn needs 24 or newer"
  fi
fi

suite=
if [ "${ID:-}" = debian ] && [ "${VERSION_CODENAME:-}" = bookworm ]; then
  suite=bookworm-backports
fi

if [ -n "$suite" ]; then
  sources="$root/etc/apt/sources.list $root/etc/apt/sources.list.d/*.list $root/etc/apt/sources.list.d/*.sources"
  if cat $sources 2>/dev/null | sed 's/#.*//' | grep -qw "$suite"; then
    say "the suite $suite is a source already"
  else
    # "URI keyring" of the first source, in either format, that serves the suite bookworm itself.
    found=$(cat "$root"/etc/apt/sources.list.d/*.sources 2>/dev/null | awk '
      function flush() { if (deb && suite && uri != "") { print uri, key; exit } ; deb = suite = 0; uri = key = "" }
      /^#/ { next }
      /^[[:space:]]*$/ { flush(); next }
      tolower($1) == "types:" { deb = / deb( |$)/ }
      tolower($1) == "uris:" { uri = $2 }
      tolower($1) == "suites:" { for (i = 2; i <= NF; i++) if ($i == "bookworm") suite = 1 }
      tolower($1) == "signed-by:" { key = $2 }
      END { flush() }' | head -n 1)
    if [ -z "$found" ]; then
      found=$(cat "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/*.list 2>/dev/null | awk '
        $1 == "deb" {
          key = ""; i = 2
          if ($2 ~ /^\[/) { do { if ($i ~ /signed-by=/) { key = $i; sub(/.*signed-by=/, "", key); sub(/\].*/, "", key) } } while ($(i++) !~ /\]$/) }
          if ($(i + 1) == "bookworm") { print $i, key; exit }
        }')
    fi
    [ -n "$found" ] || fail "no apt source of this machine serves bookworm, so the mirror of $suite is not known; add the suite to /etc/apt/sources.list.d and run this again"
    uri=${found%% *}
    key=${found#* }
    [ -n "$key" ] || key=/usr/share/keyrings/debian-archive-keyring.gpg
    say "adding the suite $suite of $uri"
    file=$(mktemp)
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$uri" "$suite" "$key" >"$file"
    [ -z "$dry" ] || sed 's/^/    /' "$file"
    step install -m 644 "$file" /etc/apt/sources.list.d/fusenorm-backports.sources
    rm -f "$file"
  fi
fi

step apt-get update
if [ -n "$suite" ]; then
  step env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -t "$suite" mesa-vulkan-drivers libvulkan1
else
  step env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends mesa-vulkan-drivers libvulkan1
fi
[ -z "$dry" ] || { say "that was a rehearsal: nothing was changed"; exit 0; }

version=$(dpkg-query -W -f='${Version}' mesa-vulkan-drivers)
dpkg --compare-versions "$version" ge 24 || fail "${PRETTY_NAME:-this system} has Mesa $version, but Dawn needs 24 or newer; upgrade the system (Debian 13, Ubuntu 24.04), or stay on the embedded SwiftShader"
say "mesa-vulkan-drivers $version is installed; \`npx fusenorm-cli doctor\` shows the adapter"
