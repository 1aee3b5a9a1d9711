"""What a backend adds to the resident memory of its process.

Around every call the process's resident set is read and its high-water mark is reset (Linux), so
that growth is charged to the backend that ran, and the benchmark's own buffers to nobody. Shared
memory, of which the benchmark has none, is charged between the calls as well, and its decline to
whoever let it grow: a backend may let go of it when it idles, while the other one runs.
"""

import dataclasses
import os


@dataclasses.dataclass
class Growth:
    """Bytes, all relative to the level before the backend's group existed or after it was made."""

    init: int = 0  # by making the group
    held: int = 0  # since then, kept
    peak: int = 0  # since then, at the worst moment


_WANTED = {b"VmRSS:": "RSS", b"VmHWM:": "HWM", b"RssShmem:": "shared"}


def _fields() -> dict:
    found = {}
    with open("/proc/self/status", "rb") as file:
        for line in file:
            words = line.split()
            if words[0] in _WANTED:
                found[_WANTED[words[0]]] = int(words[1]) * 1024
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
        self._shared = _fields()["shared"]
        self._sharer: str | None = None  # who let it grow last

    @property
    def sees_peaks(self) -> bool:
        return self._reset >= 0

    def start(self) -> None:
        if self._reset >= 0:
            os.pwrite(self._reset, b"5", 0)  # 5: reset the peak, nothing else
        now = _fields()
        if self._sharer is not None:
            self.growth[self._sharer].held += now["shared"] - self._shared
        self._shared = now["shared"]
        self._before = now["RSS"]

    def _let_go(self, backend: str, shared: int) -> int:
        """Bytes of shared memory that another backend let go of since start()."""
        gone = self._shared - shared
        if gone < 0:
            self._sharer = backend
        other = self._sharer not in (None, backend)
        self._shared = shared
        if gone <= 0 or not other:
            return 0
        self.growth[self._sharer].held -= gone
        return gone

    def stop(self, backend: str, init: bool = False) -> None:
        now = _fields()
        growth = self.growth.setdefault(backend, Growth())
        grown = now["RSS"] - self._before + self._let_go(backend, now["shared"])
        if init:
            growth.init += grown
            return
        high = now["HWM"] if self.sees_peaks else now["RSS"]
        growth.peak = max(growth.peak, growth.held + high - self._before)
        growth.held += grown
