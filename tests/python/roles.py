"""One collective of each kind on a group of its own, started together: what a fault does to each,
inside a rank of a cluster (test_roles.py).

A rank keeps what it started in this module between the commands of the test. Inputs are integers
that every rank can compute for every other one.
"""

import datetime
import json
import os
import threading
import time

import torch
import torch.distributed as dist

import papilio

# Who is who: the victim, the root of rooted ones, the other end of point to point, by group rank.
KINDS = [
    "broadcast",
    "tolerant_broadcast",
    "all_reduce_max",
    "all_reduce_int",
    "reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "gather",
    "scatter",
    "barrier",
    "send",
    "recv",
]

STATE: dict = {}


def value(rank: int, part: int, numel: int) -> torch.Tensor:
    """What that rank gives to part ``part``: other numbers for every rank, part and index."""
    index = torch.arange(numel, dtype=torch.int32)
    return (index % 251) * 64 + rank * 8 + part % 8


def say(**words) -> None:
    """From any thread: one write, so that it does not mix with what the main thread prints."""
    os.write(1, (json.dumps(words) + "\n").encode())


class Call:
    """One collective in flight on this rank."""

    def __init__(self, kind: str, group, roles: dict, numel: int):
        self.kind, self.group, self.roles, self.numel = kind, group, roles, numel
        self.rank, self.n = dist.get_rank(group), dist.get_world_size(group)
        self.outcome: dict = {}
        self.begun = time.monotonic()
        self.work = getattr(self, kind)()
        self._thread = threading.Thread(target=self._wait, daemon=True)
        if self.work is not None:
            self._thread.start()

    def _wait(self) -> None:
        try:
            self.work.wait()
            self.outcome = {"ok": True}
        except Exception as error:  # noqa: BLE001 - the test judges it
            self.outcome = {"ok": False, "error": type(error).__name__, "text": str(error)}
            for name in ("ranks", "reason"):
                got = getattr(error, name, None)
                self.outcome[name] = list(got) if isinstance(got, tuple) else got
        self.outcome["end"] = time.monotonic()
        if STATE.get("announce"):
            say(returned=self.kind)

    def finish(self, timeout: float) -> dict | None:
        """How it ended; with a result, whether that is what the contributors gave."""
        if self.work is None:
            return None
        self._thread.join(timeout)
        if self._thread.is_alive():
            return {"ok": False, "error": "still waiting", "text": self.kind}
        if self.outcome["ok"]:
            report = None
            if self.kind not in ("send", "recv"):
                report = papilio.report(self.work)
                chunks = report.chunks if report else []
                self.outcome["contributors"] = sorted({r for c in chunks for r in c.contributors})
            self.outcome["right"] = self.right(self.outcome.get("contributors"))
        return self.outcome | {"begun": self.begun}

    def _mine(self, part: int = 0) -> torch.Tensor:
        return value(self.rank, part, self.numel)

    def broadcast(self):
        with papilio.strict():
            return self.tolerant_broadcast()

    def tolerant_broadcast(self):
        self.out = self._mine()
        return dist.broadcast(
            self.out, group=self.group, group_src=self.roles["root"], async_op=True
        )

    def all_reduce_max(self):
        return self._all_reduce(dist.ReduceOp.MAX)

    def all_reduce_int(self):
        return self._all_reduce(dist.ReduceOp.SUM)

    def _all_reduce(self, op):
        self.out = self._mine()
        return dist.all_reduce(self.out, op, group=self.group, async_op=True)

    def reduce(self):
        self.out = self._mine()
        root = self.roles["root"]
        return dist.reduce(self.out, group=self.group, group_dst=root, async_op=True)

    def all_gather(self):
        self.out = torch.full((self.n * self.numel,), -1, dtype=torch.int32)
        return dist.all_gather_into_tensor(self.out, self._mine(), self.group, async_op=True)

    def reduce_scatter(self):
        self.out = torch.full((self.numel,), -1, dtype=torch.int32)
        whole = torch.cat([self._mine(part) for part in range(self.n)])
        return dist.reduce_scatter_tensor(self.out, whole, group=self.group, async_op=True)

    def all_to_all(self):
        self.out = torch.full((self.n * self.numel,), -1, dtype=torch.int32)
        whole = torch.cat([self._mine(part) for part in range(self.n)])
        return dist.all_to_all_single(self.out, whole, group=self.group, async_op=True)

    def gather(self):
        self.out = []
        if self.rank == self.roles["root"]:
            self.out = [self._mine().fill_(-1) for _ in range(self.n)]
        return dist.gather(
            self._mine(),
            self.out or None,
            group=self.group,
            group_dst=self.roles["root"],
            async_op=True,
        )

    def scatter(self):
        self.out = self._mine().fill_(-1)
        parts = None
        if self.rank == self.roles["root"]:
            parts = [self._mine(part) for part in range(self.n)]
        return dist.scatter(
            self.out, parts, group=self.group, group_src=self.roles["root"], async_op=True
        )

    def barrier(self):
        return dist.barrier(self.group, async_op=True)

    def send(self):  # to the victim
        return self._exchange(self.roles["peer"], self.roles["victim"])

    def recv(self):  # from the victim
        return self._exchange(self.roles["victim"], self.roles["peer"])

    def _exchange(self, source: int, target: int):
        if self.rank == source:
            self.out = self._mine()
            return dist.isend(self.out, group=self.group, group_dst=target)
        if self.rank == target:
            self.out = self._mine().fill_(-1)
            return dist.irecv(self.out, group=self.group, group_src=source)
        return None

    def right(self, contributors) -> bool:
        """Is what is there exactly what these ranks gave?"""
        numel, root, n = self.numel, self.roles["root"], self.n
        if self.kind in ("barrier", "send"):
            return True
        if self.kind == "recv":
            source = self.roles["victim"] if self.rank != self.roles["victim"] else None
            return source is None or torch.equal(self.out, value(source, 0, numel))
        if self.kind == "broadcast":
            return torch.equal(self.out, value(root, 0, numel))
        if self.kind == "tolerant_broadcast":  # the root's, or that of who stood in for it
            return len(contributors) >= 1 and any(
                torch.equal(self.out, value(r, 0, numel)) for r in {root, contributors[0]}
            )
        if self.kind in ("all_gather", "all_to_all"):
            part = self.rank if self.kind == "all_to_all" else 0
            want = torch.cat([value(r, part, numel) for r in range(n)])
            return torch.equal(self.out, want)
        if self.kind == "gather":
            return all(torch.equal(got, value(r, 0, numel)) for r, got in enumerate(self.out))
        if self.kind == "scatter":
            return torch.equal(self.out, value(root, self.rank, numel))
        part = self.rank if self.kind == "reduce_scatter" else 0
        given = torch.stack([value(r, part, numel) for r in contributors])
        if self.kind == "all_reduce_max":
            return torch.equal(self.out, given.max(0).values)
        if self.kind == "reduce" and self.rank != root:
            return torch.equal(self.out, self._mine())
        return torch.equal(self.out, given.sum(0).int())


def groups(kinds: list, members: list, timeout: float, name: str) -> int:
    """A group per kind over these ranks of the world, with this timeout for its collectives."""
    made = {}
    for kind in kinds:
        group = dist.new_group(members, use_local_synchronization=True, group_desc=f"{name}-{kind}")
        dist.barrier(group)  # everybody has it: no fault may hit the meeting
        dist.distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=timeout), group)
        made[kind] = group
    STATE["groups"] = made
    return len(made)


def start(roles: dict, numel: int, announce: bool = False) -> None:
    """Starts one collective on each group; returns when all are in flight."""
    STATE["announce"] = announce
    if announce:
        say(begun=True)
    STATE["calls"] = {
        kind: Call(kind, group, roles, numel) for kind, group in STATE["groups"].items()
    }


def inside() -> list:
    """The kinds that are in flight here."""
    calls = STATE["calls"].values()
    return [c.kind for c in calls if c.work is not None and not c.work.is_completed()]


def finish(timeout: float = 30) -> dict:
    end = time.monotonic() + timeout
    calls = STATE["calls"].values()
    return {call.kind: call.finish(max(end - time.monotonic(), 0)) for call in calls}


def knows(victim: int) -> bool:
    """Does every group here know that the victim is dead?"""
    groups = STATE["groups"].values()
    return all(papilio.peers(group)[victim].state == "dead" for group in groups)


def go_on(members: list, name: str, number: int) -> bool:
    """A new group over these ranks gives right values."""
    # torch names groups by how many a process has made; a rank that was frozen has made fewer.
    dist.distributed_c10d._world.group_count = number
    group = dist.new_group(members, use_local_synchronization=True, group_desc=name)
    n, rank = len(members), dist.get_rank(group)
    total, parts = value(rank, 0, 5000), torch.zeros(n * 5000, dtype=torch.int32)
    dist.all_reduce(total, group=group)
    dist.all_gather_into_tensor(parts, value(rank, 1, 5000), group)
    mean = torch.full((100_000,), float(rank))
    dist.all_reduce(mean, dist.ReduceOp.AVG, group=group)
    good = torch.equal(total, sum(value(r, 0, 5000) for r in range(n)).int())
    good = good and torch.equal(parts, torch.cat([value(r, 1, 5000) for r in range(n)]))
    good = good and bool((mean == (n - 1) / 2).all())
    dist.destroy_process_group(group)
    return good
