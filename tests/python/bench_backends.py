"""Backends with known faults, for the tests of the benchmark: Gloo, and then one thing wrong.

The benchmark imports this module in every rank (``--import bench_backends``).
"""

import os
import threading

import torch.distributed as dist


class _Faulty(dist.ProcessGroup):
    """Hands every all-reduce to Gloo; ``spoil`` is called on the result."""

    def __init__(self, store, rank, size, timeout):
        super().__init__(rank, size)
        self.inner = dist.ProcessGroupGloo(store, rank, size, timeout)
        self.calls = 0

    def getBackendName(self):
        return "faulty"

    def allreduce(self, tensors, opts=None):
        self.calls += 1
        before = tensors[0].clone()
        work = self.inner.allreduce(tensors, opts)
        work.wait()
        self.spoil(tensors[0], before)
        return work

    def spoil(self, result, before):
        pass


class Honest(_Faulty):
    pass


class OneElementOff(_Faulty):
    """Rank 1 sees one wrong element in every call."""

    def spoil(self, result, before):
        if self.rank() == 1:
            result[-1] += 1


class Stale(_Faulty):
    """Every call but the first returns the result of the call before."""

    kept = None

    def spoil(self, result, before):
        fresh = result.clone()
        if self.kept is not None and self.kept.shape == result.shape:
            result.copy_(self.kept)
        self.kept = fresh


class WithoutRank1(_Faulty):
    """The contribution of rank 1 is missing from the sum."""

    def allreduce(self, tensors, opts=None):
        if self.rank() == 1:
            tensors[0].zero_()
        return super().allreduce(tensors, opts)


class Stuck(_Faulty):
    """Rank 1 never comes back from its second call."""

    def spoil(self, result, before):
        if self.rank() == 1 and self.calls == 2:
            threading.Event().wait()


class Dying(_Faulty):
    """Rank 1 ends in its second call."""

    def spoil(self, result, before):
        if self.rank() == 1 and self.calls == 2:
            os._exit(7)


def _register(name, kind):
    dist.Backend.register_backend(name, kind, devices=["cpu"])


for _name, _kind in {
    "honest": Honest,
    "one-off": OneElementOff,
    "stale": Stale,
    "without1": WithoutRank1,
    "stuck": Stuck,
    "dying": Dying,
}.items():
    _register(_name, _kind)
