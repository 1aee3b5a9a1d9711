#!/bin/bash
# tools/build.sh <preset> [target ...]: configures and builds one preset, or the targets of it;
# quiet unless something is wrong.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
shift
mkdir -p build
exec 9>"build/$preset.lock"
flock 9  # two makes at once take turns
log=build/$preset.log
echo "build: $preset (log in $log)" >&2
if ! { cmake --preset "$preset" && cmake --build --preset "$preset" -j "$(nproc)" \
  ${1:+--target "$@"}; } >"$log" 2>&1; then
  grep -E "[Ee]rror|FAILED|warning:" -A 8 "$log" | head -80 >&2 || tail -40 "$log" >&2
  echo "build: $preset failed, see $log" >&2
  exit 1
fi
