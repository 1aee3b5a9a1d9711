"""A training whose parameters are known exactly, for tests in which members change.

The gradient of rank r in step s is 12 times the oracle's input (r, s), so that the mean over 1, 2,
3 or 4 contributors is an integer; plain SGD adds up integers. Every rank keeps its own account from
its reports alone and compares after each step.

The parent steers through the store: ``stop`` (the step at which all end), ``at/RANK`` (written by
the ranks: step, whether joined, view).
"""

import json
import time
import zlib

import numpy as np
import oracle
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import papilio

NUMEL = 40_000  # more than one shard


def _parameters(wrapped: bool):
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.zeros(NUMEL))
    model.register_buffer("seen", torch.zeros((), dtype=torch.int64))
    model.forward = lambda factor: (model.weight * factor).sum()
    return DistributedDataParallel(model) if wrapped else model


class Trainer:
    def __init__(self, wrapped=False):
        self.rank, self.n = dist.get_rank(), dist.get_world_size()
        self.store = dist.distributed_c10d._get_default_store()._underlying_non_prefix_store
        self.wrapped = wrapped
        self.model = _parameters(wrapped)
        self.weight = next(self.model.parameters())
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0, momentum=0.0)
        self.schedule = torch.optim.lr_scheduler.ConstantLR(self.optimizer, factor=1.0)
        self.job = papilio.attach(self.model, self.optimizer, self.schedule)
        self.account = np.zeros(NUMEL)  # what the weights must be
        self.wrong = 0
        self.longest = 0.0
        self.views: list = []
        self.evicted = 0

    def _gradient(self, rank: int, step: int) -> torch.Tensor:
        return oracle.tensor(rank, step, NUMEL) * 12

    def _book(self, report, step: int) -> None:
        for chunk in report.chunks:
            part = slice(chunk.start, chunk.stop)
            total = sum(self._gradient(r, step)[part].double() for r in chunk.contributors)
            self.account[part] -= (total / len(chunk.contributors)).numpy()

    def step(self) -> None:
        was, step, begin = self.job.joined, self.job.step, time.monotonic()
        received = self.job.states_received
        mine = self._gradient(self.rank, step)
        if self.wrapped:
            self.optimizer.zero_grad()
            self.model(mine).backward()  # its gradient is `mine`, averaged
        else:
            dist.all_reduce(mine, op=dist.ReduceOp.AVG)
            self.weight.grad = mine
        report = papilio.last_report()
        self.optimizer.step()
        if self.job.states_received != received:
            self.account = self.weight.detach().numpy().astype(float)
        elif was:
            self._book(report, step)
            self.wrong += int((self.weight.detach().numpy() != self.account).sum())
        if was:
            self.longest = max(self.longest, time.monotonic() - begin)
        if report.view not in self.views:
            self.views.append(report.view)

    def told_to_stop(self) -> bool:
        return self.store.check(["stop"]) and self.job.step >= int(self.store.get("stop"))

    def run(self) -> dict:
        """Trains until told to stop; comes back when the others went on without it."""
        while not self.told_to_stop():
            try:
                self.step()
            except papilio.Evicted:
                self.evicted += 1
                self.job.rejoin()
                self.account = self.weight.detach().numpy().astype(float)
            at = [self.job.step, self.job.joined, self.views[-1]]
            self.store.set(f"at/{self.rank}", json.dumps(at))
        return self.summary()

    def summary(self) -> dict:
        weights = self.weight.detach().numpy()
        return {
            "step": self.job.step,
            "crc": zlib.crc32(weights.tobytes()),
            "wrong": self.wrong,
            "trained": bool(weights.any()),
            "longest": self.longest,
            "views": self.views,
            "epoch": self.schedule.last_epoch,
            "evicted": self.evicted,
            "received": self.job.states_received,
        }
