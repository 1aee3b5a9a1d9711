"""Builds the wheel: CMake makes papilio/_C.so, setuptools packs it."""

import os
import pathlib
import subprocess
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """One extension, built by the `release` settings into the place setuptools asks for."""

    def build_extension(self, ext):
        target = pathlib.Path(self.get_ext_fullpath(ext.name)).resolve()
        build = ROOT / "build" / "wheel"
        subprocess.check_call(
            [
                "cmake",
                "-S",
                str(ROOT),
                "-B",
                str(build),
                "-G",
                "Ninja",
                "-DCMAKE_BUILD_TYPE=Release",
                "-DPAPILIO_TESTS=OFF",
                "-DPAPILIO_WHEEL=ON",
                f"-DPAPILIO_PYTHON_EXECUTABLE={sys.executable}",
                f"-DPAPILIO_PYTHON_OUTPUT={build / 'out'}",
            ]
        )
        subprocess.check_call(["cmake", "--build", str(build)])
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(build / "out" / "_C.so"), str(target))

    def get_ext_filename(self, fullname):
        return os.path.join(*fullname.split(".")) + ".so"


# An editable install takes the extension that `make build` puts into papilio/.
skip = os.environ.get("PAPILIO_SKIP_CMAKE") == "1"
setup(
    ext_modules=[] if skip else [Extension("papilio._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
