"""Runs with faults and stragglers: every backend in processes of its own, the same plan for each.

The ranks that nothing was planned for are the *subjects*; rows, percentiles and verdict are theirs.
"""

import argparse
import dataclasses
import os
import signal
import statistics
import time

from papilio.bench import stats
from papilio.bench.channel import Closed
from papilio.bench.injection import Fault
from papilio.bench.supervise import Bench, Ranks, auto_iterations, spread

_AFTER = 31  # calls after the last fault, at least, with -n auto
_AROUND = 3  # calls verified from that of a fault on
_STEADY = 3  # calls in a row at the old pace: recovered
_PACE = 2.0  # times the median before the fault; the old pace
_DEADLY = {"crash": -signal.SIGKILL, "exit": 0}  # kind of fault -> exit status that proves it
_DEATH = 10.0  # seconds a process may take to end after it said that it does
_GRACE = 5.0  # seconds for the answers after the ranks should have given up


@dataclasses.dataclass
class _Seen:
    """What the supervisor saw of one run; times in monotonic seconds."""

    answers: dict = dataclasses.field(default_factory=dict)  # rank -> what it sent at its end
    fired: dict = dataclasses.field(default_factory=dict)  # number of the plan -> times
    proven: set = dataclasses.field(default_factory=set)  # numbers of faults seen to have happened
    lost: dict = dataclasses.field(default_factory=dict)  # subject -> what became of it


def _stands_still(pid: int) -> bool:
    """SIGSTOP has worked: state T in /proc, looked for during a second."""
    end = time.monotonic() + 1
    while time.monotonic() < end:
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == "T":
                return True
        time.sleep(0.001)
    return False


class _Collector:
    """Reads what the ranks send while faults happen; wakes those whose time is over."""

    def __init__(self, ranks: Ranks, plan: list, subjects: list):
        self.ranks, self.plan, self.subjects = ranks, plan, subjects
        self.seen = _Seen()
        self._wake: list = []  # (when, process id)

    def run(self, deadline: float) -> _Seen:
        open_subjects = set(self.subjects)
        while open_subjects and time.monotonic() < deadline:
            until = min([deadline, *(when for when, _ in self._wake)])
            for key, _ in self.ranks.selector.select(max(0.0, until - time.monotonic())):
                self._read(key.data)
            self._wake_up()
            open_subjects -= set(self.seen.answers) | set(self.seen.lost)
        for rank in open_subjects:
            self.seen.lost[rank] = "did not come back within the limit (-T)"
        self._await_deaths(time.monotonic() + _DEATH)
        return self.seen

    def _await_deaths(self, deadline: float) -> None:
        """The others may have done their calls while a rank that said it dies is still dying."""
        while self._dying() and time.monotonic() < deadline:
            for key, _ in self.ranks.selector.select(max(0.0, deadline - time.monotonic())):
                self._read(key.data)

    def _dying(self) -> bool:
        there = {key.data.number for key in self.ranks.selector.get_map().values()}
        return any(
            getattr(self.plan[number], "kind", "") in _DEADLY and self.plan[number].rank in there
            for number in self.seen.fired
        )

    def _read(self, rank) -> None:
        try:
            self._take(rank, rank.channel.receive(time.monotonic() + 10))
            while rank.channel.pending():
                self._take(rank, rank.channel.receive())
        except (Closed, TimeoutError):
            self._ended(rank)

    def _take(self, rank, message: dict) -> None:
        if "fired" in message:
            self._fired(rank, message["fired"], message["at"])
        elif "error" in message:
            self.seen.lost[rank.number] = "failed: " + message["error"]
        else:
            self.seen.answers[rank.number] = message

    def _fired(self, rank, number: int, when: float) -> None:
        self.seen.fired.setdefault(number, []).append(when)
        fault = self.plan[number]
        if not isinstance(fault, Fault) or fault.kind == "hang":
            self.seen.proven.add(number)
        elif fault.kind == "freeze" and _stands_still(rank.process.pid):
            self.seen.proven.add(number)
            if fault.length is not None:
                self._wake.append((when + fault.length, rank.process.pid))

    def _wake_up(self) -> None:
        for item in [item for item in self._wake if item[0] <= time.monotonic()]:
            self._wake.remove(item)
            os.kill(item[1], signal.SIGCONT)

    def _ended(self, rank) -> None:
        self.ranks.selector.unregister(rank.channel.socket)
        rank.process.join(timeout=5)
        status = rank.process.exitcode
        for number in self.seen.fired:
            fault = self.plan[number]
            wanted = _DEADLY.get(getattr(fault, "kind", ""))
            if fault.rank == rank.number and status == wanted:
                self.seen.proven.add(number)
        if rank.number in self.subjects:
            self.seen.lost[rank.number] = f"ended with status {status}"


class FaultBench(Bench):
    """Measures every size with every backend; rows have one more entry, ``faulted``."""

    def __init__(self, options, progress):
        super().__init__(options, progress)
        self.plan = options.planned
        targets = {item.rank for item in self.plan}
        self.subjects = [rank for rank in range(options.ranks) if rank not in targets]
        self.iterations: dict = {}  # by size: as many for every backend

    def run(self, on_size) -> None:
        for size in self.options.sizes:
            for cycle in range(self.options.run_cycles):
                names = self.options.backends
                turn = cycle % len(names)  # nobody is always first
                rows = {name: self._once(size, cycle, name) for name in names[turn:] + names[:turn]}
                self.results += [rows[name] for name in names]
                on_size([rows[name] for name in names])

    def _once(self, nominal: int, cycle: int, name: str) -> dict:
        options = argparse.Namespace(**vars(self.options) | {"backends": [name]})
        part = Bench(options, self.progress)
        deadline = time.monotonic() + options.timeout
        with Ranks(options) as ranks:
            part.init(ranks, options.call_timeout)
            self.init_seconds |= part.init_seconds
            count, size, where = part.prepare(ranks, nominal, deadline)
            warm = part.calls(ranks, options.warmup_iters, 0, deadline, where)[name]
            calls = self.iterations.setdefault(nominal, self._iterations({name: warm}))
            self.progress(f"{name}: {calls} calls of {size} bytes with faults")
            seen = self._stream(ranks, calls, options.warmup_iters, where)
        return self._row(part, (name, size, count, cycle), warm, seen, calls)

    def _iterations(self, warm: dict) -> int:
        if self.options.iters is not None:
            return self.options.iters
        last = max((fault.call for fault in self.options.faults), default=0)
        return max(auto_iterations(warm), last + _AFTER)

    def _stream(self, ranks: Ranks, calls: int, first: int, where: str) -> _Seen:
        options = self.options
        limit = max(options.timeout - options.call_timeout, 0.0)
        ranks.send(
            {
                "command": "faulted",
                "calls": calls,
                "first": first,
                "faults": [dataclasses.asdict(fault) for fault in options.faults],
                "stragglers": [dataclasses.asdict(item) for item in options.stragglers],
                "seed": options.seed,
                "limit": limit,
                "verify": self._verified(calls),
            }
        )
        ranks.gather(time.monotonic() + 30, where)  # all are at the start
        now = time.monotonic()
        ranks.send({"at": now})
        return _Collector(ranks, self.plan, self.subjects).run(now + options.timeout + _GRACE)

    def _verified(self, calls: int) -> list:
        """Calls whose results are checked: -c of them evenly spread, and those around a fault."""
        chosen = set(spread(["x"] * calls, ["x"], calls, self.options.check))
        if self.options.check:
            for fault in self.options.faults:
                chosen |= set(range(fault.call, min(fault.call + _AROUND, calls)))
        return sorted(chosen)

    def _row(self, part: Bench, what: tuple, warm: dict, seen: _Seen, calls: int) -> dict:
        table = self._table(seen)
        good = [call for call in table if call["outcome"] != "failed"]
        answers = list(seen.answers.items())
        subjects = [answer for rank, answer in answers if rank in self.subjects]
        everything = {
            "per_rank": [
                [round((end - begin) * 1e6, 1) for begin, end, *_ in answer["calls"]]
                for _, answer in answers
            ],
            "combined": [call["us"] for call in good],
            "wrong": sum(answer["wrong"] for answer in subjects),
            "verified": min((answer["verified"] for answer in subjects), default=0),
            "masks": {},
            "rounds": [],
            "memory": [],
        }
        row = part.row(*what, warm, everything)
        row["faulted"] = self._faulted(row, table, good, seen, calls, warm)
        return row

    def _table(self, seen: _Seen) -> list:
        """The calls that every subject has made, each with the worst of their outcomes."""
        lists = [seen.answers[rank]["calls"] for rank in self.subjects if rank in seen.answers]
        if len(lists) < len(self.subjects):
            return []
        # A rank may have given up after fewer calls than another: the rest has failed.
        out = []
        for index in range(max(map(len, lists))):
            parts = [calls[index] for calls in lists if index < len(calls)]
            outcomes = {part[2] for part in parts}
            if len(parts) < len(lists):
                outcomes.add("failed")
            times = [[(end - begin) * 1e6] for begin, end, *_ in parts]
            out.append(
                {
                    "begin": min(part[0] for part in parts),
                    "end": max(part[1] for part in parts),
                    "us": float(stats.combine(times, self.options.combine)[0]),
                    "outcome": next(o for o in ("failed", "degraded", "ok") if o in outcomes),
                    "included": statistics.fmean(part[3] for part in parts),
                }
            )
        return out

    def _faulted(self, row, table, good, seen: _Seen, calls: int, warm: dict) -> dict:
        outcomes = [call["outcome"] for call in table]
        wall = table[-1]["end"] - table[0]["begin"] if table else 0.0
        before = statistics.median(warm["combined"][len(warm["combined"]) // 2 :])
        faults = [self._fault(n, table, seen, before) for n in range(len(self.plan))]
        happened = [fault for fault in faults if fault["fired"]]
        return {
            "planned_calls": calls,
            "ok": outcomes.count("ok"),
            "degraded": outcomes.count("degraded"),
            "failed": outcomes.count("failed") if table else calls,
            "lost": {str(rank): text for rank, text in seen.lost.items()},
            "included": statistics.fmean(c["included"] for c in good) if good else None,
            "goodput": row["size"] * len(good) / wall / 1e9 if wall else None,
            "detected": _worst(happened, "detected"),
            "recovered": _worst(happened, "recovered"),
            "planned": len(self.plan),
            "fired": len(happened),
            "faults": faults,
            "errors": {str(rank): answer["errors"] for rank, answer in seen.answers.items()},
            "timeline": table,
        }

    def _fault(self, number: int, table: list, seen: _Seen, pace_us: float) -> dict:
        """When one item of the plan happened, and what followed, in seconds from then."""
        item = self.plan[number]
        times = seen.fired.get(number, [])
        out = {
            "spec": item.spec,
            "fired": len(times) if number in seen.proven else 0,
            "at": None,
            "detected": None,
            "recovered": None,
        }
        if not out["fired"] or not table:
            return out
        start = times[0]
        earlier = [call["us"] for call in table if call["end"] < start]
        if len(earlier) >= _STEADY:
            pace_us = statistics.median(earlier)
        signs = []
        for rank in self.subjects:
            answer = seen.answers[rank]
            signs += [end for _, end, outcome, _ in answer["calls"] if outcome == "failed"]
            signs += [when for when, _, about, _ in answer["noticed"] if about == item.rank]
        signs = [when - start for when in signs if when >= start]
        out |= {"at": start - table[0]["begin"], "detected": min(signs, default=None)}
        out["recovered"] = _recovered(table, start, pace_us)
        return out


def _worst(faults: list, key: str) -> float | None:
    """None when it did not come after one of them."""
    values = [fault[key] for fault in faults]
    return max(values) if values and None not in values else None


def _recovered(table: list, start: float, pace_us: float) -> float | None:
    """Seconds from ``start`` to the end of the first of _STEADY good calls at the old pace."""
    run = 0
    for index, call in enumerate(table):
        steady = call["outcome"] != "failed" and call["us"] <= _PACE * pace_us
        run = run + 1 if steady and call["end"] >= start else 0
        if run == _STEADY:
            return table[index - _STEADY + 1]["end"] - start
    return None
