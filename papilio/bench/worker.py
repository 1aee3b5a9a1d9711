"""One rank of the benchmark: a fork of the supervisor that does what a socket tells it.

Nothing that keeps the ranks in step goes through the library under test: start times, iteration
counts and samples travel over the supervisor's socket.
"""

import contextlib
import ctypes
import dataclasses
import datetime
import gc
import importlib
import os
import signal
import socket
import time
import traceback

import torch
import torch.distributed as dist

from papilio.bench.cases import Case
from papilio.bench.channel import Channel, Closed
from papilio.bench.memory import Meter

_PR_SET_PDEATHSIG = 1


def _rounds(backend: str, group) -> dict:
    """Rounds by outcome so far, for a backend that reports them."""
    if backend != "papilio":
        return {}
    import papilio

    return {k: int(v) for k, v in papilio.stats(group).get("rounds", {}).items()}


class Worker:
    def __init__(self, channel: Channel):
        self.channel = channel
        self.rank = int(os.environ["RANK"])
        self.ranks = int(os.environ["WORLD_SIZE"])
        self.groups: dict = {}
        self.meter = Meter()
        self.case: Case | None = None

    def init(self, backends, modules, options, timeout, port) -> dict:
        """One group per backend, all over the same processes and the same store."""
        os.environ["MASTER_PORT"] = str(port)
        for module in modules:
            importlib.import_module(module)
        seconds = {}
        for backend in backends:
            extra = None
            if backend == "papilio":
                import papilio

                extra = papilio.Options(**options)
            limit = datetime.timedelta(seconds=timeout)
            begin = time.monotonic()
            self.meter.start()
            if not self.groups:
                dist.init_process_group(backend, timeout=limit, pg_options=extra)
                self.groups[backend] = dist.group.WORLD
            else:
                self.groups[backend] = dist.new_group(
                    backend=backend, timeout=limit, pg_options=extra
                )
            self.meter.stop(backend, init=True)
            seconds[backend] = time.monotonic() - begin
        return {"seconds": seconds, "pid": os.getpid()}

    def prepare(self, **spec) -> dict:
        self.case = None  # free the last size first
        self.case = Case(spec, self.rank, self.ranks)
        return {}

    def _go(self, number: int) -> None:
        """Waits at the supervisor's barrier and until the common start time."""
        self.channel.send({"barrier": number})
        at = self.channel.receive()["at"]
        left = at - time.monotonic()
        if left > 0:
            time.sleep(left)

    def run(self, schedule, verify, isolated, first, expect_full) -> dict:
        """Iterations first, first+1, ... with the backends named in ``schedule``, in that order.

        ``verify`` holds the positions in the schedule whose results are checked. The timed window
        is the call alone; refilling and checking happen outside it.
        """
        names = list(self.groups)
        samples: list = [[] for _ in schedule]
        wrong = dict.fromkeys(names, 0)
        verified = dict.fromkeys(names, 0)
        masks: dict = {name: {} for name in names}
        before = {name: _rounds(name, group) for name, group in self.groups.items()}
        check = set(verify)
        if not isolated:
            self._go(first)
        for position, name in enumerate(schedule):
            k = first + position
            self.case.prepare(k)
            self.meter.start()
            if isolated:
                self._go(k)
            begin = time.monotonic_ns()
            self.case.call(self.groups[name])
            samples[position] = round((time.monotonic_ns() - begin) / 1e3, 1)
            self.meter.stop(name)
            if position in check:
                verified[name] += 1
                wrong[name] += self._verify(name, k, expect_full, masks[name])
        after = {name: _rounds(name, group) for name, group in self.groups.items()}
        return {
            "samples": samples,
            "wrong": wrong,
            "verified": verified,
            "masks": masks,
            "rounds": {
                name: {key: after[name][key] - before[name].get(key, 0) for key in after[name]}
                for name in names
            },
            "memory": {n: dataclasses.asdict(g) for n, g in self.meter.growth.items()},
            "sees_peaks": self.meter.sees_peaks,
        }

    def _verify(self, name: str, k: int, expect_full: bool, masks: dict) -> int:
        wrong, places = self.case.check(k)
        if wrong == 0:
            return 0
        for mask, count in self.case.masks(k, places, name == "papilio").items():
            masks[mask] = masks.get(mask, 0) + count
        if not expect_full and name == "papilio" and self.case.collective == "all_reduce":
            import papilio

            return self.case.unexplained(k, papilio.last_report(self.groups[name]))
        return wrong

    def end(self) -> dict:
        self.case = None
        dist.destroy_process_group()
        return {}

    def serve(self) -> None:
        commands = {"init": self.init, "prepare": self.prepare, "run": self.run, "end": self.end}
        while True:
            request = self.channel.receive()
            command = request.pop("command")
            try:
                answer = {"done": command} | commands[command](**request)
            except Closed:
                raise
            except Exception as error:  # every failure is an answer
                answer = {
                    "error": f"{type(error).__name__}: {error}".strip(),
                    "trace": traceback.format_exc(),
                }
            self.channel.send(answer)
            if command == "end":
                return


def _environment(rank: int, ranks: int) -> dict:
    """What torchrun would have set."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # rank 0 is a client of the store too
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        # The same interface that papilio takes: the one of the store.
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
    }


def main(link: socket.socket, others: list, rank: int, ranks: int, cpu: int | None) -> None:
    """Life of a rank. ``others``: the supervisor's sockets, which are not this process's."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    for other in others:
        other.close()
    os.dup2(2, 1)  # standard output belongs to the supervisor's table
    os.environ.update(_environment(rank, ranks))
    torch.set_num_threads(1)
    gc.disable()
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    with contextlib.suppress(Closed):
        Worker(Channel(link)).serve()
