"""The rank's side of false_strikes.py: small fault-free rounds, each compared with its oracle."""

import os
import threading
import time

import numpy as np
import oracle
import torch
import torch.distributed as dist
import worker

import papilio

SIZES = (1000, 40_000)  # elements: one chunk with one reducer, and a shard for every rank
SALTS = range(4)
BLAMING = ("peer_slow", "blacklisted", "peer_lost", "isolated")


class Inputs:
    """Of one size; what a complete round makes of each is known beforehand."""

    def __init__(self, numel: int):
        self.numel = numel
        self._rank, self._n = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        everybody = [[oracle.tensor(r, s, numel) for r in range(self._n)] for s in SALTS]
        self._given = [given[self._rank] for given in everybody]
        self._sums = [torch.stack(given).double().sum(0).float() for given in everybody]
        self.tensor = torch.empty(numel)

    def fill(self, number: int) -> None:
        self.tensor.copy_(self._given[number % len(SALTS)])

    def wrong(self, number: int, report) -> int:
        salt = number % len(SALTS)
        if report.outcome == "complete":
            return int((self.tensor != self._sums[salt]).sum())
        return oracle.count_wrong(self.tensor, report, self._n, self._rank, salt)


def computes(rounds: int, mean: float, deviation: float) -> np.ndarray:
    """Seconds before each round, lognormal."""
    random = np.random.default_rng([11, int(os.environ["RANK"])])
    square = np.log1p((deviation / mean) ** 2)
    return random.lognormal(np.log(mean) - square / 2, np.sqrt(square), rounds)


def series(rounds: int, mean: float, deviation: float) -> dict:
    """What became of the rounds, and what this rank holds against others afterwards."""
    inputs = [Inputs(numel) for numel in SIZES]
    busy = threading.Event()  # never set: stands for the computing of a model
    outcomes: dict = {}
    wrong, took = 0, []
    spent = computes(rounds, mean, deviation)
    for number in range(rounds):
        busy.wait(spent[number])
        own = inputs[number % len(SIZES)]
        own.fill(number)
        begin = time.monotonic()
        dist.all_reduce(own.tensor)
        took.append(time.monotonic() - begin)
        report = papilio.last_report()
        outcomes[report.outcome] = outcomes.get(report.outcome, 0) + 1
        wrong += own.wrong(number, report)
    stats = papilio.stats()
    return {
        "outcomes": outcomes,
        "wrong": wrong,
        "longest": max(took),
        "median": float(np.median(took)),
        "compute": [float(spent.mean()), float(spent.std())],
        "strikes": stats["strikes"],
        "bans": stats["bans"],
        "blacklisted": len(papilio.blacklist()),
        "events": [e for e in worker.EVENTS if e["kind"] in BLAMING],
    }
