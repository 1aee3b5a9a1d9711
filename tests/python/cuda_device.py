"""A GPU with the interface of fake_device.py, for the same tests on hardware. What is noticed there
by its bookkeeping (two uses ordered by luck) shows here only as a wrong value, and not always."""

import ctypes
import os
import threading

# Else a kernel's first use waits for a stream that is held.
os.environ["CUDA_MODULE_LOADING"] = "EAGER"

import torch  # noqa: E402

NAME = "cuda"
HOST_BACKEND = "gloo"  # NCCL wants a GPU for each rank

_CYCLES = 200_000  # a kernel of about 0.1 ms before every use: later than the call
_driver = ctypes.CDLL("libcuda.so.1")
_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_held: list = []  # callbacks that the driver may still call
_graph = None


class _Gate:
    """Holds the current stream, by a host function that waits."""

    def __init__(self):
        self._event = threading.Event()
        self._function = _HOST_FUNCTION(lambda _: self._event.wait())
        _held.append(self)
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        error = _driver.cuLaunchHostFunc(stream, self._function, None)
        if error != 0:
            raise RuntimeError(f"cuLaunchHostFunc: error {error}")

    def open(self):
        self._event.set()


def hold() -> _Gate:
    # What the first use of another stream needs waits for the one that is held.
    torch.cuda.Stream()
    torch.cuda.Stream(priority=-1)
    torch.cuda.synchronize()
    return _Gate()


def fill_later(tensor, value: float) -> None:
    torch.cuda._sleep(_CYCLES)
    tensor.fill_(value)


def read_later(tensor):
    """A CPU tensor that holds the values after the next synchronize()."""
    torch.cuda._sleep(_CYCLES)
    out = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return out.copy_(tensor, non_blocking=True)


def synchronize() -> None:
    torch.cuda.synchronize()


def idle() -> bool:
    return torch.cuda.current_stream().query()


signal_at_average = None  # not there: tests that need it are for the device without hardware


def averages() -> int:
    """Of the device lane; not counted here."""
    return 1


def sums() -> int:
    """Not counted here; see fake_device.py."""
    return 1


def races() -> list:
    return []


def uses() -> int:
    return 1


def set_capturing(on: bool) -> None:
    global _graph
    if on:
        torch.cuda.synchronize()
        _graph = torch.cuda.CUDAGraph()
        torch.cuda.set_stream(torch.cuda.Stream())
        _graph.capture_begin()
    else:
        _graph.capture_end()
        torch.cuda.set_stream(torch.cuda.default_stream())


def Stream():  # noqa: N802 - a class in fake_device
    return torch.cuda.stream(torch.cuda.Stream())
