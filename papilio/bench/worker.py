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
from papilio.bench.injection import Fault, Injector, Straggler
from papilio.bench.memory import Meter

_PR_SET_PDEATHSIG = 1
_HOPELESS = 3  # failed calls in a row after which a training job would have ended too


def _rounds(backend: str, group) -> dict:
    """Rounds by outcome so far, for a backend that reports them."""
    if backend != "papilio":
        return {}
    import papilio

    return {k: int(v) for k, v in papilio.stats(group).get("rounds", {}).items()}


class Watch:
    """What a backend that reports says of calls and peers; else every call that returns is ok."""

    def __init__(self, backend: str):
        self.reports = backend == "papilio"
        self.noticed: list = []  # [monotonic seconds, kind, rank, detail]
        if self.reports:
            import papilio

            papilio.on_event(self._event)

    def _event(self, event) -> None:
        if event.kind in ("peer_lost", "peer_slow", "blacklisted"):
            when = time.monotonic() - (time.time() - event.when)
            self.noticed.append([when, event.kind, event.rank, event.detail])

    def report(self, group):
        """Of the call that has just returned; None if the backend has none."""
        if not self.reports:
            return None
        import papilio

        return papilio.last_report(group)

    @staticmethod
    def outcome(report) -> tuple[str, float]:
        """``ok`` or ``degraded``, and the share of the ranks in the result, mean over elements."""
        if report is None:
            return "ok", 1.0
        included = sum((c.stop - c.start) * len(c.contributors) for c in report.chunks)
        share = included / (report.numel * dist.get_world_size()) if report.numel else 1.0
        return "ok" if report.outcome == "complete" else "degraded", share


class Worker:
    def __init__(self, channel: Channel):
        self.channel = channel
        self.rank = int(os.environ["RANK"])
        self.ranks = int(os.environ["WORLD_SIZE"])
        self.groups: dict = {}
        self.meter = Meter()
        self.case: Case | None = None

    def init(self, backends, modules, options, timeout, port, device) -> dict:
        """One group per backend, all over the same processes and the same store."""
        os.environ["MASTER_PORT"] = str(port)
        for module in modules:
            importlib.import_module(module)
        where = self._take_device(device)
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
                dist.init_process_group(where + backend, timeout=limit, pg_options=extra)
                self.groups[backend] = dist.group.WORLD
            else:
                self.groups[backend] = dist.new_group(
                    backend=where + backend, timeout=limit, pg_options=extra
                )
            self.meter.stop(backend, init=True)
            seconds[backend] = time.monotonic() - begin
        return {"seconds": seconds, "pid": os.getpid()}

    def _take_device(self, device: str) -> str:
        """What stands before a backend's name; a GPU of this rank's own, as far as there are."""
        if device == "cpu":
            return ""
        if device == "cuda":
            if not torch.cuda.is_available():
                raise RuntimeError("--device cuda is not supported here: torch can use no GPU")
            torch.cuda.set_device(self.rank % torch.cuda.device_count())
        return device + ":"

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

    def run(self, schedule, verify, isolated, turn, first, expect_full) -> dict:
        """Iterations first, first+1, ... with the backends named in ``schedule``, in that order.

        ``verify`` holds the positions in the schedule whose results are checked. The timed window
        is the call alone; refilling and checking happen outside it. Memory is read before and
        after each ``turn``, so many calls with one backend.
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
            if position % turn == 0:
                self.meter.start()
            if isolated:
                self._go(k)
            begin = time.monotonic_ns()
            self.case.call(self.groups[name])
            samples[position] = round((time.monotonic_ns() - begin) / 1e3, 1)
            if (position + 1) % turn == 0:
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

    def faulted(self, calls, first, faults, stragglers, seed, limit, verify) -> dict:
        """Streams ``calls`` iterations through the only group while faults happen.

        A call is ``[begin, end, outcome, included]``: monotonic seconds, ``ok``, ``degraded`` or
        ``failed``, and the mean share of the ranks that is in the result. Gives up after ``limit``
        seconds, or when _HOPELESS calls in a row have failed.
        """
        ((name, group),) = self.groups.items()
        injector = Injector(
            self.rank,
            [Fault(**fault) for fault in faults],
            [Straggler(**straggler) for straggler in stragglers],
            calls,
            seed,
            self.channel.send,
        )
        watch = Watch(name)
        done: list = []
        errors: list = []
        kept: list = []  # results to check when nothing is timed any more
        failing, check = 0, set(verify)
        self._go(first)
        until = time.monotonic() + limit
        for call in range(calls):
            self.case.prepare(first + call)
            injector.before(call)
            begin = time.monotonic()
            try:
                self.case.call(group)
                end = time.monotonic()
                report = watch.report(group)
                failing = 0
                done.append([begin, end, *watch.outcome(report)])
                if call in check:
                    kept.append((first + call, self.case.output.clone(), report))
            except Exception as error:  # what faults do to a backend is what is measured
                failing += 1
                errors.append([call, f"{type(error).__name__}: {error}".strip()])
                done.append([begin, time.monotonic(), "failed", 0.0])
            if failing == _HOPELESS or time.monotonic() > until:
                break
        return {
            "calls": done,
            "errors": errors[:_HOPELESS],
            "wrong": sum(self._wrong_in(*item) for item in kept),
            "verified": len(kept),
            "noticed": watch.noticed,
        }

    def _wrong_in(self, k: int, output, report) -> int:
        """Wrong elements of the result of iteration k, by its report if there is one."""
        self.case.output.copy_(output)
        wrong, _ = self.case.check(k)
        if wrong and report is not None and self.case.collective == "all_reduce":
            return self.case.unexplained(k, report)
        return wrong

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
        commands = {
            "init": self.init,
            "prepare": self.prepare,
            "run": self.run,
            "faulted": self.faulted,
            "end": self.end,
        }
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
