"""The test's end of the hook that holds a rank's progress thread (csrc/engine/test_hook.hpp)."""

import os
import select
import time


class Hook:
    """Three FIFOs: ``.at`` (it is there), ``.go`` (it may go on), ``.do`` (rank_side.obey)."""

    def __init__(self, folder: str, rank: int, phase: str, round_: int):
        self.rank, self.phase = rank, phase
        self.path = os.path.join(folder, f"rank{rank}")
        self.environment = {"PAPILIO_TEST_HOOK": f"{phase}:{round_}:{self.path}"}
        self._ends = {}
        for name in ("at", "go", "do"):
            os.mkfifo(f"{self.path}.{name}")
            # For reading and writing: neither side's open() ever waits for the other one.
            self._ends[name] = os.open(f"{self.path}.{name}", os.O_RDWR)

    def reached(self, timeout: float = 20) -> float:
        """Waits until the rank is held in its phase; when that was (CLOCK_MONOTONIC)."""
        if not select.select([self._ends["at"]], [], [], timeout)[0]:
            raise TimeoutError(f"rank {self.rank} was never {self.phase} within {timeout} s")
        line = os.read(self._ends["at"], 100).decode()
        assert line == self.phase + "\n", line
        return time.monotonic()

    def release(self) -> None:
        os.write(self._ends["go"], b".")

    def order(self, word: str) -> None:
        """To the rank's side thread, which obeys while the main thread is in the call."""
        os.write(self._ends["do"], word.encode() + b"\n")

    def close(self) -> None:
        for end in self._ends.values():
            os.close(end)
