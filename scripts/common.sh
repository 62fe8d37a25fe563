# shellcheck shell=bash
# What several scripts need. To be sourced: . scripts/common.sh

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The version in Cargo.toml.
project_version() { sed -n 's/^version = "\(.*\)"$/\1/p' "$repository/Cargo.toml" | head -n1; }

# Sets the time of everything that is built: that of the last commit, unless SOURCE_DATE_EPOCH is set.
set_source_date() {
  export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$repository" log -1 --format=%ct 2>/dev/null || echo 0)}
}

failures=0
# check WHAT COMMAND...: prints whether it succeeds, and its output if not. The output is in $check_output afterwards.
check() {
  local what=$1
  shift
  if "$@" >"$check_output" 2>&1; then
    echo "ok $what"
  else
    echo "FAIL $what"
    sed 's/^/    /' "$check_output"
    failures=$((failures + 1))
  fi
}

# await SECONDS COMMAND...: repeats the command until it succeeds; fails when the time is over.
await() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.1
  done
}

# report NAME: prints how the checks ended, as the last command of a script.
report() {
  echo
  [ $failures = 0 ] || { echo "$1: $failures failed"; exit 1; }
  echo "$1: all passed"
}

# isolate NAME COMMAND...: replaces this script by a command in its own namespaces, which take all its processes, mounts
# and networks with them. Needs root, or sudo without a password; exit status 2 otherwise.
isolate() {
  local name=$1 namespaces=(unshare --mount --net --pid --fork --kill-child --mount-proc)
  shift
  [ "$(id -u)" = 0 ] || namespaces=(sudo -n "${namespaces[@]}")
  "${namespaces[@]}" true || { echo "$name: root is needed, for its own mounts and networks" >&2; exit 2; }
  exec "${namespaces[@]}" "$@"
}
