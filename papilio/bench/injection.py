"""Faults and stragglers: what ``--fault`` and ``--straggler`` say, and the rank that does it.

``kind@rank:call[+t][:for]``: that rank does it before its timed call number ``call`` (from 0), or
the time ``t`` after it entered that call. ``for``: how long, for ever if left out.

=======  ================================================================  ========
kind     what the rank does                                                ``for``
=======  ================================================================  ========
crash    SIGKILL to itself
exit     ends with status 0, without a word to the group
freeze   SIGSTOP to itself: the whole process stands still                 possible
hang     its own thread stays away; the process works for the others       possible
=======  ================================================================  ========

``rank=1:delay=20ms[:p=0.1][:dist=fixed|exp|lognormal|pareto]``: rank 1 computes longer before each
call, or before a call with probability ``p``; ``delay`` is the mean of the distribution.
"""

import dataclasses
import os
import re
import signal
import threading
import time

import numpy as np

KINDS = ("crash", "exit", "freeze", "hang")
# Words of the field that need more than a process can do to itself.
_ABSENT = (
    "slow-send",
    "slow-reduce",
    "fail-before",
    "fail-send",
    "fail-reduce",
    "slow-link",
    "partition",
    "rejoin",
)
_DISTRIBUTIONS = ("fixed", "exp", "lognormal", "pareto")
_SIGMA = 1.0  # lognormal: p99 is some 6 times the mean
_ALPHA = 2.5  # pareto: a finite variance, and a tail without bound
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def seconds(text: str) -> float:
    """``20ms``, ``1.5s``, ``300us``; ValueError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text)
    if match is None or float(match[1]) == 0:
        raise ValueError(f"{text!r} is no duration; try 20ms, 1.5s, 300us")
    return float(match[1]) * _UNITS[match[2]]


@dataclasses.dataclass(frozen=True)
class Fault:
    """One planned fault; times in seconds."""

    spec: str
    kind: str
    rank: int
    call: int
    offset: float = 0.0  # after the call was entered; 0: before it
    length: float | None = None  # None: for ever

    @classmethod
    def parse(cls, text: str) -> "Fault":
        match = re.fullmatch(r"([a-z-]+)@(\d+):(\d+)(?:\+([^:]+))?(?::(.+))?", text)
        if match is None:
            raise ValueError(f"{text!r} is not like crash@3:50 or freeze@1:50+2ms:1s")
        kind, rank, call, offset, length = match.groups()
        if kind in _ABSENT:
            raise ValueError(f"{kind!r} is not built yet; there are {', '.join(KINDS)}")
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not one of {', '.join(KINDS)}")
        if length is not None and kind not in ("freeze", "hang"):
            raise ValueError(f"{text!r}: a {kind} is for ever")
        if offset is not None and kind == "hang":
            raise ValueError(f"{text!r}: its thread is inside the call then and can not stay away")
        return cls(
            text,
            kind,
            int(rank),
            int(call),
            seconds(offset) if offset else 0.0,
            seconds(length) if length else None,
        )


@dataclasses.dataclass(frozen=True)
class Straggler:
    """One rank that computes longer; ``delay`` in seconds."""

    spec: str
    rank: int
    delay: float
    p: float = 1.0
    dist: str = "fixed"

    @classmethod
    def parse(cls, text: str) -> "Straggler":
        fields = dict(part.partition("=")[::2] for part in text.split(":"))
        unknown = set(fields) - {"rank", "delay", "p", "dist"}
        if unknown or not {"rank", "delay"} <= set(fields):
            raise ValueError(f"{text!r} is not like rank=1:delay=20ms:p=0.1:dist=exp")
        dist = fields.get("dist", "fixed")
        if dist not in _DISTRIBUTIONS:
            raise ValueError(f"dist={dist!r} is not one of {', '.join(_DISTRIBUTIONS)}")
        try:
            rank, p = int(fields["rank"]), float(fields.get("p", "1"))
        except ValueError:
            raise ValueError(f"{text!r}: rank and p are numbers") from None
        if rank < 0 or not 0 < p <= 1:
            raise ValueError(f"{text!r}: rank is at least 0, p in 0 .. 1")
        return cls(text, rank, seconds(fields["delay"]), p, dist)

    def delays(self, calls: int, seed: int) -> np.ndarray:
        """Seconds before each call; the same for the same seed, so for every backend."""
        random = np.random.default_rng([seed, self.rank])
        values = {
            "fixed": lambda: np.full(calls, self.delay),
            "exp": lambda: random.exponential(self.delay, calls),
            "lognormal": lambda: random.lognormal(
                np.log(self.delay) - _SIGMA**2 / 2, _SIGMA, calls
            ),
            "pareto": lambda: (
                self.delay * (_ALPHA - 1) / _ALPHA * (1 + random.pareto(_ALPHA, calls))
            ),
        }[self.dist]()
        return np.where(random.random(calls) < self.p, values, 0.0)


class Injector:
    """In one rank: does what is planned for it, after ``tell`` was called with a message."""

    def __init__(self, rank: int, faults: list, stragglers: list, calls: int, seed: int, tell):
        self._tell = tell
        self._faults = [(n, f) for n, f in enumerate(faults) if f.rank == rank]
        self._delays = [
            (len(faults) + n, s.delays(calls, seed))
            for n, s in enumerate(stragglers)
            if s.rank == rank
        ]

    def before(self, call: int) -> None:
        for number, delays in self._delays:
            if delays[call] > 0:
                self._tell({"fired": number, "at": time.monotonic()})
                time.sleep(delays[call])
        for number, fault in self._faults:
            if fault.call != call:
                continue
            if fault.offset:
                threading.Thread(target=self._later, args=(number, fault), daemon=True).start()
            else:
                self._fire(number, fault)

    def _later(self, number: int, fault: Fault) -> None:
        time.sleep(fault.offset)
        self._fire(number, fault)

    def _fire(self, number: int, fault: Fault) -> None:
        self._tell({"fired": number, "at": time.monotonic()})
        if fault.kind == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "exit":
            os._exit(0)
        elif fault.kind == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)  # the supervisor wakes it
        elif fault.length is None:
            threading.Event().wait()
        else:
            time.sleep(fault.length)
