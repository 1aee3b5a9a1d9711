"""Builds the wheel: CMake makes papilio/_C.so, setuptools packs it.

A wheel fits one torch minor, the one installed here (build without isolation), and says so:
version 0.1.0+torch2.14 depends on torch>=2.14,<2.15.
"""

import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent


def torch_minor():
    """("2.14", "2.15"): of the torch installed here, and the next one."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        sys.exit(
            "papilio is built for the torch that is installed where it is built, there is none: "
            "install torch, then build with --no-build-isolation (or use `make wheel`)"
        )
    major, minor = version.split(".")[:2]
    return f"{major}.{minor}", f"{major}.{int(minor) + 1}"


def own_version():
    text = (ROOT / "papilio" / "__init__.py").read_text()
    return re.search(r'^__version__ = "(.+)"', text, re.MULTILINE).group(1)


TORCH, NEXT_TORCH = torch_minor()
BUILD = ROOT / "build" / f"wheel-torch{TORCH}"


def nvcc():
    """The compiler for the CUDA kernels, or None for a wheel without them.

    PAPILIO_CUDA=1 wants them, PAPILIO_CUDA=0 does not; otherwise they are in where nvcc is found.
    """
    wanted = os.environ.get("PAPILIO_CUDA", "")
    if wanted == "0":
        return None
    usual = "/usr/local/cuda/bin/nvcc"
    found = os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which(usual)
    if wanted and not found:
        sys.exit("PAPILIO_CUDA is set, but there is no nvcc: name it in CUDACXX")
    return found


class CMakeBuild(build_ext):
    """One extension, built by the `release` settings into the place setuptools asks for."""

    def build_extension(self, ext):
        target = pathlib.Path(self.get_ext_fullpath(ext.name)).resolve()
        settings = {
            "CMAKE_BUILD_TYPE": "Release",
            "PAPILIO_TESTS": "OFF",
            "PAPILIO_WHEEL": "ON",
            "PAPILIO_CUDA": "ON" if (compiler := nvcc()) else "OFF",
            "PAPILIO_PYTHON_EXECUTABLE": sys.executable,
            "PAPILIO_PYTHON_OUTPUT": str(BUILD / "out"),
        }
        if compiler:
            settings["CMAKE_CUDA_COMPILER"] = compiler
        defines = [f"-D{name}={value}" for name, value in settings.items()]
        subprocess.check_call(
            ["cmake", "-S", str(ROOT), "-B", str(BUILD / "cmake"), "-G", "Ninja", *defines]
        )
        subprocess.check_call(["cmake", "--build", str(BUILD / "cmake")])
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(BUILD / "out" / "_C.so"), str(target))
        self.copy_file(str(BUILD / "out" / "_built.py"), str(target.parent / "_built.py"))

    def get_ext_filename(self, fullname):
        return os.path.join(*fullname.split(".")) + ".so"


EGG_INFO = BUILD / "egg-info"
EGG_INFO.mkdir(parents=True, exist_ok=True)
# An editable install takes the extension that `make build` puts into papilio/.
skip = os.environ.get("PAPILIO_SKIP_CMAKE") == "1"
if not skip:
    # setuptools would also pack what an earlier build left here.
    shutil.rmtree(BUILD / "python", ignore_errors=True)
setup(
    version=f"{own_version()}+torch{TORCH}",
    install_requires=[f"torch>={TORCH},<{NEXT_TORCH}", "libucx-cu13>=1.22", "numpy"],
    # Not in the root: metadata there would shadow what is installed, for programs started there.
    options={
        "build": {"build_base": str(BUILD / "python")},
        "egg_info": {"egg_base": str(EGG_INFO)},
    },
    ext_modules=[] if skip else [Extension("papilio._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
