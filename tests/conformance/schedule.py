"""Waits for the ranks of the running tests, ends those that hang, and judges the exit codes."""

import os
import re
import select
import shutil
import signal
import tempfile
import time

GRACE = 5.0  # seconds that the other ranks have once one has failed
DUMP = 1.0  # seconds for the tracebacks of a hanging rank
TAIL = 25  # lines of output kept per failure
# What torch's logger puts before every line of a traceback.
LOG_PREFIX = re.compile(r"^(\[rank\d+\]:)?\w\d{4} [\d:.]+ \d+ \S+:\d+\] ?")
ERROR = re.compile(r"^[\w.]*(Error|Exception|Failed|Exceeded|Aborted|Mismatch)\b")


class Running:
    """One test whose ranks run. Owns a folder with their output and the files that they share."""

    def __init__(self, test: str, time_limit: float):
        self.test = test
        self.folder = tempfile.mkdtemp(prefix="papilio-conformance-")
        for part in ("barrier", "test_dir"):
            os.mkdir(os.path.join(self.folder, part))
        self.begun = time.monotonic()
        self.end_by = self.begun + time_limit
        self.pidfds: list = []  # by rank
        self.pids: list = []
        self.codes: dict = {}  # rank -> exit code, negative for a signal
        self.first_failed: int | None = None
        self.out_of_time: list = []  # ranks that ran when the time was over

    def add(self, pid: int) -> None:
        self.pids.append(pid)
        self.pidfds.append(os.pidfd_open(pid))

    def open_ranks(self) -> list:
        return [rank for rank in range(len(self.pids)) if rank not in self.codes]

    def reap(self, rank: int, skips) -> None:
        _, status = os.waitpid(self.pids[rank], 0)
        os.close(self.pidfds[rank])
        self.codes[rank] = os.waitstatus_to_exitcode(status)
        if self.codes[rank] not in (0, *skips) and self.first_failed is None:
            self.first_failed = rank
            self.end_by = min(self.end_by, time.monotonic() + GRACE)

    def stop(self) -> None:
        """Tracebacks of the ranks that still run, then their end."""
        if self.first_failed is None:
            self.out_of_time = self.open_ranks()
            self._kill(signal.SIGUSR1)
            select.select([self.pidfds[rank] for rank in self.open_ranks()], [], [], DUMP)
        self._kill(signal.SIGKILL)

    def _kill(self, number: int) -> None:
        for rank in self.open_ranks():
            os.kill(self.pids[rank], number)  # not reaped yet: the pid is still its own

    def output(self, rank: int) -> list:
        with open(os.path.join(self.folder, f"rank{rank}.log"), errors="replace") as log:
            lines = [LOG_PREFIX.sub("", line.rstrip()) for line in log]
        for number, line in enumerate(lines):
            if line.startswith("To execute this test"):
                lines = lines[:number]
                break
        return [line for line in lines if line.strip()]

    def verdict(self, skips: dict) -> dict:
        codes = [self.codes[rank] for rank in range(len(self.pids))]
        out = {"test": self.test, "seconds": round(time.monotonic() - self.begun, 2)}
        if late := self.out_of_time:
            return out | self.failure(late[0], f"time limit: ranks {late} still run")
        if self.first_failed is not None:
            code = codes[self.first_failed]
            what = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return out | self.failure(self.first_failed, f"rank {self.first_failed}: {what}")
        if set(codes) == {0}:
            return out | {"outcome": "passed"}
        if len(set(codes)) == 1:
            return out | {"outcome": "skipped", "reason": skips[codes[0]]}
        return out | self.failure(0, f"some ranks passed and some skipped: exit codes {codes}")

    def failure(self, rank: int, reason: str) -> dict:
        lines = self.output(rank)
        errors = [line for line in lines if ERROR.match(line)]
        if errors:
            reason += f", {errors[-1]}"
        return {"outcome": "failed", "reason": reason, "output": lines[-TAIL:]}


class Schedule:
    """``begin`` waits for a free place, ``finish`` for everything; ``report`` gets each result."""

    def __init__(self, ranks: int, time_limit: float, jobs: int, skips: dict, report):
        self.ranks = ranks
        self.time_limit = time_limit
        self.jobs = jobs
        self.skips = skips
        self.report = report
        self.running: list = []

    def skipped(self, test: str, reason: str) -> None:
        self.report({"test": test, "seconds": 0.0, "outcome": "skipped", "reason": reason})

    def begin(self, test: str) -> Running:
        while len(self.running) >= self.jobs:
            self._step()
        self.running.append(Running(test, self.time_limit))
        return self.running[-1]

    def finish(self) -> None:
        while self.running:
            self._step()

    def _step(self) -> None:
        """Waits for the next rank to end or the next limit to pass, and deals with it."""
        by_fd = {one.pidfds[rank]: (one, rank) for one in self.running for rank in one.open_ranks()}
        limit = min(one.end_by for one in self.running) - time.monotonic()
        ready, _, _ = select.select(list(by_fd), [], [], max(limit, 0))
        for descriptor in ready:
            one, rank = by_fd[descriptor]
            one.reap(rank, self.skips)
        for one in list(self.running):
            if one.open_ranks() and time.monotonic() >= one.end_by:
                one.stop()
                for rank in one.open_ranks():
                    one.reap(rank, self.skips)
            if not one.open_ranks():
                self.report(one.verdict(self.skips))
                shutil.rmtree(one.folder, ignore_errors=True)
                self.running.remove(one)
