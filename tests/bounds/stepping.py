"""The rank's side of straggler.py: steps of a training, with any backend."""

import os
import threading
import time

import torch
import torch.distributed as dist

import papilio


def steps(backend: str, count: int, numel: int, compute: float) -> list:
    """(seconds, ranks that are blamed, ranks that are in any element) of each step."""
    busy = threading.Event()  # never set: stands for the computing of a model
    tensor = torch.empty(numel)
    value = float(os.environ["RANK"]) + 1
    out = []
    for _ in range(count):
        begin = time.monotonic()
        busy.wait(compute)
        tensor.fill_(value)
        dist.all_reduce(tensor)
        seconds = time.monotonic() - begin
        blamed, there = [], []
        if backend == "papilio":
            report = papilio.last_report()
            blamed = sorted(report.blamed)
            there = sorted({r for chunk in report.chunks for r in chunk.contributors})
        out.append([seconds, blamed, there])
    return out
