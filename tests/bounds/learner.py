"""The rank's side of rejoin.py: a training with a loss, in which members change.

Writes to the store after each step what the parent judges: ``log/RANK``, the last steps with the
digest of the replica after each and the time (CLOCK_MONOTONIC, the same in all processes).
"""

import collections
import json
import math
import threading
import time
import zlib

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from trainer import Trainer

import papilio

_KEPT = 60  # steps in the log
_WIDTH, _BATCH = 64, 32
_RATE = 1e-3  # of learning, at first
_HELD_OUT = 10**6  # the step whose data nobody trains on


def _data(step: int, rank: int) -> torch.Tensor:
    """By step and rank alone: a restarted rank goes on where the job is."""
    generator = torch.Generator().manual_seed(step * 1009 + rank)
    return torch.randn(_BATCH, _WIDTH, generator=generator)


def _loss(model, data: torch.Tensor) -> torch.Tensor:
    return (model(data) - data.flip(1)).square().mean()


class Learner(Trainer):
    """``compute``: seconds that a step takes beside its all-reduce. The learning rate falls to
    nothing in ``steps``, as in any training whose final loss somebody wants."""

    def __init__(self, compute: float, steps: int):
        self.rank, self.n = dist.get_rank(), dist.get_world_size()
        self.store = dist.distributed_c10d._get_default_store()._underlying_non_prefix_store
        torch.manual_seed(0)
        self.model = DistributedDataParallel(
            torch.nn.Sequential(
                torch.nn.Linear(_WIDTH, 256), torch.nn.ReLU(), torch.nn.Linear(256, _WIDTH)
            )
        )
        self.weight = next(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=_RATE)
        self.job = papilio.attach(self.model, self.optimizer)
        self.compute, self.steps = compute, steps
        self.views: list = []
        self.evicted = self.wrong = 0
        self.ready = 0.0  # when it had done its steps alone and asked to be let in
        self.log: collections.deque = collections.deque(maxlen=_KEPT)
        self.busy = threading.Event()  # never set: stands for the computing of a bigger model

    def step(self) -> None:
        was = self.job.joined
        self.optimizer.zero_grad()
        loss = _loss(self.model, _data(self.job.step, self.rank))
        loss.backward()
        self.busy.wait(self.compute)
        for group in self.optimizer.param_groups:
            group["lr"] = _RATE * (1 - self.job.step / self.steps)
        self.wrong += not math.isfinite(loss.item())
        if not was:
            self.ready = time.monotonic()
        self.optimizer.step()  # a restarted rank waits in here until it is let in
        view = papilio.last_report().view
        if view not in self.views:
            self.views.append(view)
        if self.job.joined:
            self.log.append((self.job.step, self.digest(), time.monotonic()))
            said = {"ready": self.ready, "steps": list(self.log)}
            self.store.set(f"log/{self.rank}", json.dumps(said))

    def digest(self) -> int:
        out = 0
        for parameter in self.model.parameters():
            out = zlib.crc32(parameter.detach().numpy().tobytes(), out)
        return out

    def summary(self) -> dict:
        with torch.no_grad():
            held_out = [_loss(self.model, _data(_HELD_OUT + k, 0)).item() for k in range(50)]
        return {
            "step": self.job.step,
            "crc": self.digest(),
            "wrong": self.wrong,  # steps whose loss was no number
            "evicted": self.evicted,
            "received": self.job.states_received,
            "views": self.views,
            "loss": sum(held_out) / len(held_out),
        }
