# For setup scripts, which say what went wrong with `fail`: runs a command as root.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null 2>&1; then sudo "$@"
  else fail "this needs root, and sudo is not here; run it as root"
  fi
}
