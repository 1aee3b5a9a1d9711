"""What goes on beside the ranks of false_strikes.py. Each is a context manager for a started
cluster; ``proof`` says afterwards that it was there, in words."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

from faults import stopped


class Nothing:
    def __init__(self, ranks):
        self.ranks = ranks
        self.proof = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Hog(Nothing):
    """A process that computes all the time, on any CPU."""

    def __enter__(self):
        self._begin = time.monotonic()
        self._process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        return self

    def __exit__(self, *_):
        self._process.kill()
        _, _, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = -signal.SIGKILL  # reaped above, for its times
        share = usage.ru_utime / (time.monotonic() - self._begin)
        assert share > 0.05, f"the hog got {share:.0%} of a CPU only"
        self.proof = f"the hog had {share:.0%} of a CPU"


class Pauses(Nothing):
    """Stops one process at a time, with all its threads, as a garbage collector does."""

    LENGTH = 0.3
    APART = 0.5  # seconds between two, in the mean

    def __enter__(self):
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count: dict = {}
        self.failed = 0
        self._thread.start()
        return self

    def _run(self) -> None:
        chance = random.Random(3)
        while not self._end.wait(chance.expovariate(1 / self.APART)):
            rank = self.ranks[chance.randrange(self.ranks.n)]
            rank.signal(signal.SIGSTOP)
            until = time.monotonic() + self.LENGTH
            self._end.wait(self.LENGTH / 2)
            self.failed += not stopped(rank.pid)
            self._end.wait(max(0.0, until - time.monotonic()))
            rank.signal(signal.SIGCONT)
            self.count[rank.rank] = self.count.get(rank.rank, 0) + 1

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()
        assert self.failed <= 1, "SIGSTOP did not stop them"  # the last one is cut short
        assert sum(self.count.values()) > 0, "the rounds were over before the first pause"
        self.proof = f"{sum(self.count.values())} pauses on {len(self.count)} ranks"
