#!/bin/bash
# tools/build_cuda.sh: compiles the CUDA kernels for every architecture we ship, checks what the
# compiler made of them, and runs the tests; those that need a device say so when there is none.
# Table of registers and spills: build/cuda/resources.txt.
#
# tools/build_cuda.sh --if-there: the same for `make test`; without nvcc it says so, and that is all.
set -euo pipefail
cd "$(dirname "$0")/.."
nvcc=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
if [[ ! -x $nvcc ]]; then
  if [[ ${1:-} == --if-there ]]; then
    echo "cuda: no nvcc here; the kernels are not compiled, their arithmetic is tested on the CPU" >&2
    exit 0
  fi
  echo "cuda: nvcc is missing; install the CUDA toolkit 12.8 or newer (package cuda-nvcc with" \
    "cuda-cudart-dev) or name nvcc in CUDACXX" >&2
  exit 1
fi
version=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
if [[ $(printf '%s\n' 12.8 "$version" | sort -V | head -1) != 12.8 ]]; then
  echo "cuda: $nvcc is of CUDA ${version:-?}, the kernels need 12.8 or newer" >&2
  [[ ${1:-} == --if-there ]] && exit 0 || exit 1
fi
export CUDACXX=$nvcc
build=build/cuda
mkdir -p $build
exec 9>build/cuda.lock
flock 9  # two makes at once take turns
log=build/cuda.log
echo "cuda: building with $nvcc (log in $log)" >&2
# The kernels are compiled every time: the table is made of what ptxas prints while it does.
rm -f $build/CMakeFiles/papilio_cuda.dir/cuda/*.o $build/ptx/*
if ! { cmake --preset cuda && cmake --build --preset cuda -j "${PAPILIO_JOBS:-$(nproc)}" \
  --target cuda_test cuda_device_test cuda_kernel_bench; } >$log 2>&1; then
  grep -E "[Ee]rror|FAILED|warning" -A 8 $log | head -80 >&2 || tail -40 $log >&2
  echo "cuda: failed, see $log" >&2
  exit 1
fi
# A fused multiply-add rounds once where the host rounds twice.
if fused=$(grep -HnE '\b(fma|mad)\.[a-z]*\.?f(16|32|64)' $build/ptx/*.ptx); then
  printf 'cuda: fused multiply-add in a kernel:\n%s\n' "$fused" >&2
  exit 1
fi
python=.venv/bin/python
[[ -x $python ]] || python=python3
$python tools/cuda_resources.py $log >$build/resources.txt || { cat $build/resources.txt >&2; exit 1; }
if [[ ${1:-} == --if-there ]]; then
  echo "cuda: kernels compiled, no warning and no spill; their arithmetic and devices:" >&2
else
  cat $build/resources.txt
fi
$build/cuda_test --gtest_brief=1
$build/cuda_device_test --gtest_brief=1
