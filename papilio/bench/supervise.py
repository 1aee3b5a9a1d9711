"""Starts the ranks, keeps them in step and collects their samples, all through pipes.

A rank that dies, fails or hangs ends the run with what is known about it; nothing here depends on
the library under test.
"""

import dataclasses
import multiprocessing
import random
import selectors
import socket
import sys
import time

import numpy as np

from papilio.bench import cases, stats, worker
from papilio.bench.channel import Channel, Closed
from papilio.bench.flags import MOST_CALLS, UsageError

_LEAD = 200e-6  # seconds between the release of the barrier and the common start time
_TARGET = 2.0  # seconds of calls per backend and size, -n auto
_FEWEST = 31
_INIT_LIMIT = 120.0  # seconds to import torch and make the groups
_UNSUPPORTED = (
    "does not support",
    "not supported",
    "not implemented",
    "unsupported",
    "unknown backend",
    "unknown c10d backend",
    "no module named",
)


class DidNotFinish(Exception):
    """A rank died, failed or hung; the text says which, where and why."""


@dataclasses.dataclass
class _Rank:
    number: int
    process: multiprocessing.process.BaseProcess
    channel: Channel


class Ranks:
    """``with Ranks(options) as ranks``: the worker processes, killed and reaped on the way out."""

    def __init__(self, options):
        from torch.distributed import TCPStore

        self.options = options
        self.selector = selectors.DefaultSelector()
        self.ranks: list = []
        # Forked while this process has no threads of its own: torch is imported once, not n times.
        sys.stdout.flush()
        for number in range(options.ranks):
            self.ranks.append(self._start(number))
        # The supervisor hosts the store, so that no rank is special.
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def _start(self, number: int) -> _Rank:
        ours, theirs = socket.socketpair()
        cpus = self.options.cpus
        process = multiprocessing.get_context("fork").Process(
            target=worker.main,
            args=(
                theirs,
                [ours, *(rank.channel.socket for rank in self.ranks)],
                number,
                self.options.ranks,
                cpus[number % len(cpus)] if cpus else None,
            ),
        )
        process.start()
        theirs.close()
        rank = _Rank(number, process, Channel(ours))
        self.selector.register(ours, selectors.EVENT_READ, rank)
        return rank

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for rank in self.ranks:
            rank.process.kill()
        for rank in self.ranks:
            rank.process.join()
            rank.channel.socket.close()
        self.selector.close()
        del self.store  # and its thread: more ranks may be forked

    def send(self, message: dict) -> None:
        for rank in self.ranks:
            try:
                rank.channel.send(message)
            except Closed:
                self._died(rank, "before " + message.get("command", "the start of a call"))

    def _died(self, rank: _Rank, where: str):
        rank.process.join(timeout=5)
        status = rank.process.exitcode
        how = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
        raise DidNotFinish(f"rank {rank.number} (pid {rank.process.pid}) ended with {how} {where}")

    def gather(self, deadline: float, where: str) -> list:
        """One message of every rank."""
        answers: dict = {}
        while len(answers) < len(self.ranks):
            ready = self.selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                silent = [r.number for r in self.ranks if r.number not in answers]
                raise DidNotFinish(
                    f"ranks {silent} did not answer {where} within the limit (-T); "
                    f"ranks {sorted(answers)} did"
                )
            for key, _ in ready:
                rank = key.data
                if rank.number in answers:
                    continue
                try:
                    # A message that began arrives: the rank writes it in one go.
                    answers[rank.number] = rank.channel.receive(time.monotonic() + 10)
                except (Closed, TimeoutError):
                    self._died(rank, where)
                if "error" in answers[rank.number]:
                    self._failed(rank, answers[rank.number], where)
        return [answers[rank.number] for rank in self.ranks]

    def _failed(self, rank: _Rank, answer: dict, where: str):
        text = answer["error"]
        if any(hint in text.lower() for hint in _UNSUPPORTED) or "NotImplemented" in text:
            raise UsageError(f"rank {rank.number} {where}: {text}")
        print(answer.get("trace", ""), file=sys.stderr)
        raise DidNotFinish(f"rank {rank.number} failed {where}: {text}")

    def command(self, name: str, deadline: float, where: str, **arguments) -> list:
        """Runs a command on all ranks and answers their barriers until all are done."""
        self.send({"command": name} | arguments)
        while True:
            answers = self.gather(deadline, where)
            waiting = ["barrier" in answer for answer in answers]
            if not any(waiting):
                return answers
            if not all(waiting):
                raise DidNotFinish(f"the ranks are out of step {where}")
            self.send({"at": time.monotonic() + _LEAD})


class Bench:
    """Measures every size; ``results`` holds one dict per size, backend and cycle."""

    def __init__(self, options, progress):
        self.options = options
        self.progress = progress
        self.random = random.Random(options.seed)
        self.results: list = []
        self.comparisons: list = []
        self.memory: list = []  # per rank: backend -> Growth
        self.sees_peaks = True
        self.init_seconds: dict = {}
        self._call = 0

    def run(self, on_size) -> None:
        """Calls ``on_size(rows)`` after each size and cycle."""
        options = self.options
        with Ranks(options) as ranks:
            self.init(ranks, max(options.timeout, 30.0))
            for size in options.sizes:
                self._size(ranks, size, on_size)
            ranks.command("end", time.monotonic() + 30, "while the groups were destroyed")

    def init(self, ranks: Ranks, timeout: float) -> None:
        """One group per backend, whose calls end after ``timeout`` seconds."""
        options = self.options
        answers = ranks.command(
            "init",
            time.monotonic() + _INIT_LIMIT,
            "while the groups were made",
            backends=options.backends,
            modules=options.modules,
            options=options.library,
            timeout=timeout,
            port=ranks.store.port,
            device=options.device,
        )
        self.init_seconds = {
            name: max(a["seconds"][name] for a in answers) for name in options.backends
        }

    def prepare(self, ranks: Ranks, nominal: int, deadline: float) -> tuple[int, int, str]:
        """Buffers of one size: elements, bytes, and where in the run this is."""
        options = self.options
        element = cases.DTYPES[options.datatype].itemsize
        count, size = cases.counts(options.collective, nominal, element, options.ranks)
        where = f"in {options.collective} of {size} bytes"
        self.progress(f"{options.collective} {size} bytes")
        ranks.command(
            "prepare",
            deadline,
            where,
            collective=options.collective,
            count=count,
            type=options.datatype,
            op=options.op,
            root=options.root,
            unalign=options.unalign,
            device=options.device,
        )
        return count, size, where

    def _size(self, ranks: Ranks, nominal: int, on_size) -> None:
        options = self.options
        deadline = time.monotonic() + options.timeout
        count, size, where = self.prepare(ranks, nominal, deadline)
        for cycle in range(options.run_cycles):
            warm = self.calls(ranks, options.warmup_iters, 0, deadline, where)
            iterations = options.iters or auto_iterations(warm)
            self.progress(f"{options.collective} {size} bytes, {iterations} calls of each")
            measured = self.calls(
                ranks, iterations, options.check, deadline, where, options.block or 0
            )
            rows = [
                self.row(name, size, count, cycle, warm[name], measured[name])
                for name in options.backends
            ]
            self.results += rows
            self.comparisons += [stats.compare(rows[0], other, options.seed) for other in rows[1:]]
            on_size(rows)

    def calls(self, ranks, iterations: int, check: int, deadline, where, block: int = 0) -> dict:
        """Every backend ``iterations`` times, in an order that is shuffled for every repetition.

        With a ``block`` a repetition is so many calls of each, and one before them that is not
        counted: it begins when the ranks come back from the other backend.
        """
        options = self.options
        schedule: list = []
        for _ in range(-(-iterations // max(block, 1))):
            for name in self.random.sample(options.backends, len(options.backends)):
                schedule += [name] * (block + 1)
        answers = ranks.command(
            "run",
            deadline,
            where,
            schedule=schedule,
            verify=spread(schedule, options.backends, iterations, check),
            isolated=options.mode == "isolated",
            turn=block + 1,
            first=self._call,
            expect_full=options.expect == "full",
        )
        self._call += len(schedule)
        self.memory = [answer["memory"] for answer in answers]
        self.sees_peaks = all(answer["sees_peaks"] for answer in answers)
        return {
            name: self._part(
                name,
                answers,
                [
                    i
                    for i, other in enumerate(schedule)
                    if other == name and (block == 0 or i % (block + 1) != 0)
                ],
            )
            for name in options.backends
        }

    def _part(self, name: str, answers: list, positions: list) -> dict:
        per_rank = [[answer["samples"][i] for i in positions] for answer in answers]
        masks: dict = {}
        for answer in answers:
            for mask, count in answer["masks"][name].items():
                masks[mask] = masks.get(mask, 0) + count
        return {
            "per_rank": per_rank,
            "combined": stats.combine(per_rank, self.options.combine),
            "wrong": sum(answer["wrong"][name] for answer in answers),
            "verified": min(answer["verified"][name] for answer in answers),
            "masks": masks,
            "rounds": [answer["rounds"][name] for answer in answers],
            "memory": [answer["memory"].get(name, {}) for answer in answers],
        }

    def row(self, name, size, count, cycle, warm: dict, part: dict) -> dict:
        options = self.options
        kept = part["combined"][options.skip :]
        row = {
            "size": size,
            "count": count,
            "type": options.datatype,
            "op": options.op if "reduce" in options.collective else "none",
            "collective": options.collective,
            "backend": name,
            "cycle": cycle,
            "iterations": len(kept),
            "first_us": float(warm["combined"][0]),  # contains set-up of connections and buffers
            "stats": stats.summarise(kept, size, options.collective, options.ranks),
            "combined_us": [float(value) for value in kept],
            "samples_us": [samples[options.skip :] for samples in part["per_rank"]],
            "verified": part["verified"],
            "wrong": part["wrong"],
            "masks": part["masks"],
            "rounds": part["rounds"],
            "memory": part["memory"],
        }
        if not options.per_iteration:
            kept_keys = ("samples", "avg", "algbw", "busbw")
            row["stats"] = {k: v if k in kept_keys else None for k, v in row["stats"].items()}
        return row


def spread(schedule: list, backends: list, iterations: int, check: int) -> list:
    """Positions of ``check`` calls per backend, evenly spread, the last one among them."""
    chosen: list = []
    check = min(check, iterations)
    for name in backends:
        positions = [i for i, other in enumerate(schedule) if other == name]
        chosen += [positions[-1 - (i * iterations) // check] for i in range(check)]
    return chosen


def auto_iterations(warm: dict) -> int:
    """Calls per backend that take about _TARGET seconds, by the second half of the warm-up."""
    typical = [
        float(np.median(part["combined"][len(part["combined"]) // 2 :])) for part in warm.values()
    ]
    wanted = _TARGET * 1e6 * len(typical) / max(sum(typical), 1.0)
    return int(min(max(wanted, _FEWEST), MOST_CALLS))
