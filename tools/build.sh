#!/bin/bash
# tools/build.sh <preset> [target ...]: configures and builds one preset, or the targets of it;
# quiet unless something is wrong. PAPILIO_CUDA=1: with the CUDA kernels in the extension, as in a
# wheel; 0: without, as at first.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
shift
mkdir -p build
exec 9>"build/$preset.lock"
flock 9  # two makes at once take turns
log=build/$preset.log
cuda=()
if [[ -n ${PAPILIO_CUDA:-} ]]; then
  cuda=("-DPAPILIO_CUDA=$PAPILIO_CUDA")
  export CUDACXX=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
fi
echo "build: $preset (log in $log)" >&2
if ! { cmake --preset "$preset" "${cuda[@]}" && cmake --build --preset "$preset" -j "$(nproc)" \
  ${1:+--target "$@"}; } >"$log" 2>&1; then
  grep -E "[Ee]rror|FAILED|warning:" -A 8 "$log" | head -80 >&2 || tail -40 "$log" >&2
  echo "build: $preset failed, see $log" >&2
  exit 1
fi
