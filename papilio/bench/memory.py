"""What a backend adds to the resident memory of its process.

Around every call the process's resident set is read and its high-water mark is reset (Linux), so
that growth is charged to the backend that ran, and the benchmark's own buffers to nobody.
"""

import dataclasses
import os


@dataclasses.dataclass
class Growth:
    """Bytes, all relative to the level before the backend's group existed or after it was made."""

    init: int = 0  # by making the group
    held: int = 0  # since then, kept
    peak: int = 0  # since then, at the worst moment


def _fields() -> dict:
    found = {}
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith((b"VmRSS", b"VmHWM")):
                name, amount = line.split()[:2]
                found[name[2:5].decode()] = int(amount) * 1024
    return found


class Meter:
    """``with meter.charge("gloo"): call()``."""

    def __init__(self):
        self.growth: dict[str, Growth] = {}
        try:
            self._reset = os.open("/proc/self/clear_refs", os.O_WRONLY)
        except OSError:
            self._reset = -1  # peaks inside a call are not seen then
        self._before = 0

    @property
    def sees_peaks(self) -> bool:
        return self._reset >= 0

    def start(self) -> None:
        if self._reset >= 0:
            os.pwrite(self._reset, b"5", 0)  # 5: reset the peak, nothing else
        self._before = _fields()["RSS"]

    def stop(self, backend: str, init: bool = False) -> None:
        now = _fields()
        growth = self.growth.setdefault(backend, Growth())
        if init:
            growth.init += now["RSS"] - self._before
            return
        high = now["HWM"] if self.sees_peaks else now["RSS"]
        growth.peak = max(growth.peak, growth.held + high - self._before)
        growth.held += now["RSS"] - self._before
