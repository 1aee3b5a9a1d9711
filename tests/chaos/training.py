"""What the ranks of "restart and rejoin" run: a training whose members may change between steps.

The gradient is the oracle's input, and each all-reduce is judged by its own report. Steered
through the store: ``stop`` (the step at which all end); ``at/RANK`` is written by the ranks (step,
whether joined, view).
"""

import json
import os
import time
import zlib

import rank_side
import torch
import torch.distributed as dist

import papilio

SALT = 1000  # of step 0: the rounds before have small ones
KEPT = 200  # steps of which the outcome is told


class Training:
    it: "Training"  # of this process

    def __init__(self, numel: int):
        self.numel = numel
        self.model = torch.nn.Module()
        self.model.weight = torch.nn.Parameter(torch.zeros(numel), requires_grad=False)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        self.job = papilio.attach(self.model, self.optimizer, hook=False)
        self.wrong: list = []  # rounds that failed, or had wrong elements
        self.outcomes: dict = {}  # by step
        self.views: list = []
        self.steps = 0
        self.longest = 0.0  # seconds of a step, in papilio
        self.joined_at = None  # a restarted rank: its first step as a member

    def step(self) -> None:
        step, member = self.job.step, self.job.joined
        got = rank_side.one_round(self.numel, SALT + step, then=self.model.weight.add_)
        if not got["ok"] or got["wrong"]:
            self.wrong.append(got)
        begin = time.monotonic()
        self.job.step_boundary()
        boundary = time.monotonic() - begin
        if member:
            self.steps += 1
            self.longest = max(self.longest, got["end"] - got["begin"] + boundary)
            self.outcomes[step] = got["report"]["outcome"] if got["ok"] else got["error"]
            self.outcomes.pop(step - KEPT, None)
        elif self.job.joined:
            self.joined_at = self.job.step

    def told_to_stop(self, store) -> bool:
        return store.check(["stop"]) and self.job.step >= int(store.get("stop"))

    def train(self) -> dict:
        store = dist.distributed_c10d._get_default_store()._underlying_non_prefix_store
        rank = os.environ["RANK"]
        while not self.told_to_stop(store):
            self.step()
            view = papilio.last_report().view
            if view not in self.views:
                self.views.append(view)
            store.set(f"at/{rank}", json.dumps([self.job.step, self.job.joined, view]))
        return self.summary()

    def summary(self) -> dict:
        return {
            "pid": os.getpid(),
            "step": self.job.step,
            "steps": self.steps,
            "outcomes": self.outcomes,
            "wrong": self.wrong[:3],
            "views": self.views,
            "longest": self.longest,
            "joined_at": self.joined_at,
            "received": self.job.states_received,
            "crc": zlib.crc32(self.model.weight.numpy()),
        }


def attach(numel: int) -> int:
    """On every rank, before any round."""
    Training.it = Training(numel)
    return os.getpid()


def train() -> dict:
    return Training.it.train()
