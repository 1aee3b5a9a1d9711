"""The extension as it was built: CUDA kernels exactly when it says so, and no library of CUDA that
would have to be there to load it."""

import pathlib
import subprocess

import papilio
from papilio import _built

EXTENSION = pathlib.Path(papilio.__file__).with_name("_C.so")


def readelf(option: str) -> str:
    return subprocess.run(
        ["readelf", option, "--wide", EXTENSION], capture_output=True, text=True, check=True
    ).stdout


def test_kernels_are_in_when_it_says_so():
    assert (".nv_fatbin" in readelf("--section-headers")) == (_built.CUDA != "")


def test_it_needs_no_cuda_library():
    needed = [line for line in readelf("--dynamic").splitlines() if "(NEEDED)" in line]
    assert any("libtorch_python.so" in line for line in needed), "this reads the wrong thing"
    assert not [line for line in needed if "libcuda" in line]


def test_the_cuda_runtime_within_is_nobody_elses():
    """Its names would meet those of the runtime that torch loads."""
    symbols = readelf("--dyn-syms").splitlines()
    defined = [line.split()[-1] for line in symbols if " UND " not in line and " FUNC " in line]
    assert any(name.startswith("PyInit_") for name in defined), "this reads the wrong thing"
    assert not [name for name in defined if name.startswith(("cuda", "__cuda"))]
