"""Loads the extension: the right torch, one copy of UCX, settings that UCX reads first."""

import functools
import os

import torch

# UCX reads these when its library is loaded. It must neither patch the allocator of a process that
# gives it host memory only, nor take over signals, nor write to stdout.
_UCX_DEFAULTS = {
    "UCX_MEM_MMAP_HOOK_MODE": "none",
    "UCX_HANDLE_ERRORS": "none",
    "UCX_LOG_LEVEL": "fatal",
    "UCX_LOG_FILE": "stderr",  # as a path it would truncate a log that is redirected to a file
    "UCX_WARN_UNUSED_ENV_VARS": "n",
}


def check_torch(built: str) -> None:
    """Raises ImportError when ``built`` ("2.14") is not the minor version of this torch: a module
    for another one would be loaded and then call the wrong virtual functions."""
    here = ".".join(torch.__version__.split(".")[:2])
    if built != here:
        raise ImportError(
            f"papilio was built for torch {built} but this is torch {torch.__version__}; install "
            f"the papilio wheel for torch {here} (its version ends in +torch{here}) or rebuild"
        )


def check_build() -> None:
    """The same at import, before anything is loaded. What was not built yet is told by load()."""
    try:
        from papilio import _built
    except ImportError:
        return
    check_torch(_built.TORCH)


def cuda_kernels() -> str:
    """The CUDA version that the kernels in this build were compiled with; empty: there are none."""
    try:
        from papilio import _built
    except ImportError:
        return ""
    return _built.CUDA


@functools.cache
def load():
    """The extension module; raises ImportError with one clear sentence when it can not work."""
    for name, value in _UCX_DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        import libucx

        libucx.load_library()
    except ImportError:
        pass  # a system UCX may do; the next import says if it does not
    try:
        from papilio import _C
    except ImportError as error:
        raise ImportError(
            f"papilio's extension does not load ({error}); build it with `make build` or install a "
            f"wheel made for torch {torch.__version__}"
        ) from error
    check_torch(".".join(_C.torch_version.split(".")[:2]))
    return _C
