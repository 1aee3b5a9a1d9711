"""Builds the wheel: CMake makes papilio/_C.so, setuptools packs it."""

import os
import pathlib
import shutil
import subprocess
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent
BUILD = ROOT / "build" / "wheel"


class CMakeBuild(build_ext):
    """One extension, built by the `release` settings into the place setuptools asks for."""

    def build_extension(self, ext):
        target = pathlib.Path(self.get_ext_fullpath(ext.name)).resolve()
        settings = {
            "CMAKE_BUILD_TYPE": "Release",
            "PAPILIO_TESTS": "OFF",
            "PAPILIO_WHEEL": "ON",
            "PAPILIO_PYTHON_EXECUTABLE": sys.executable,
            "PAPILIO_PYTHON_OUTPUT": str(BUILD / "out"),
        }
        defines = [f"-D{name}={value}" for name, value in settings.items()]
        subprocess.check_call(
            ["cmake", "-S", str(ROOT), "-B", str(BUILD / "cmake"), "-G", "Ninja", *defines]
        )
        subprocess.check_call(["cmake", "--build", str(BUILD / "cmake")])
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(BUILD / "out" / "_C.so"), str(target))

    def get_ext_filename(self, fullname):
        return os.path.join(*fullname.split(".")) + ".so"


# An editable install takes the extension that `make build` puts into papilio/.
skip = os.environ.get("PAPILIO_SKIP_CMAKE") == "1"
if not skip:
    # setuptools would also pack what an earlier build left here.
    shutil.rmtree(BUILD / "python", ignore_errors=True)
setup(
    options={"build": {"build_base": str(BUILD / "python")}},
    ext_modules=[] if skip else [Extension("papilio._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
