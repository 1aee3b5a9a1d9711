"""tools/cuda_resources.py reads what ptxas prints, and a spill fails the build."""

import pathlib
import subprocess
import sys

import pytest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "cuda_resources.py"
# As nvcc 13.0 prints it with -Xptxas=--verbose, between lines of the build.
LOG = """[3/4] Building CUDA object CMakeFiles/papilio_cuda.dir/cuda/kernels.cu.o
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{name}' for 'sm_90'
ptxas info    : Function properties for {name}
    8 bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used 44 registers, used 1 barriers, 3456 bytes cmem[0]
ptxas info    : Compile time = 11.817 ms
[4/4] Linking CUDA static library libpapilio_cuda.a
"""
NAME = "_ZN7papilio4cuda12_GLOBAL__N_110moveKernelIdEEvPKv"


def run(tmp_path, log):
    path = tmp_path / "build.log"
    path.write_text(log)
    return subprocess.run([sys.executable, TOOL, path], capture_output=True, text=True)


def test_row_of_a_kernel(tmp_path):
    done = run(tmp_path, LOG.format(name=NAME, stores=0, loads=0))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["moveKernel<double>", "sm_90", "44", "0", "8"]


@pytest.mark.parametrize(("stores", "loads"), [(4, 0), (0, 4)])
def test_spill_fails_and_is_named(tmp_path, stores, loads):
    done = run(tmp_path, LOG.format(name=NAME, stores=stores, loads=loads))
    assert done.returncode == 1
    assert done.stderr == "spills: moveKernel<double> on sm_90\n"


def test_log_without_kernels_fails(tmp_path):
    assert run(tmp_path, "[1/1] ninja: no work to do.\n").returncode == 1
