"""What the ranks of test_codec.py run, and what the results must be: numpy in float64."""

import json
import zlib

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import papilio

# Of the largest magnitude: half a step of each codec, for contributions and for the result.
BOUND = {"raw": 1e-6, "bf16": 2 * 2**-8, "fp16": 2 * 2**-11, "int8": 2 * 1.001 / 254}


def integers(rank: int, numel: int, salt: int = 0) -> np.ndarray:
    """127 in every block, and ranks that differ by multiples of 12: contributions and the means of
    up to four of them are exact in every codec."""
    index = np.arange(numel)
    base = index * 37 % 120 - 60
    own = (index // 7 + rank * 5 + salt) % 5 * 12
    return np.where(index % 64 == 0, 127, base + own).astype(np.float32)


def exact(numel: int, salt: int = 0) -> dict:
    """One averaging all-reduce, compared with its own report."""
    rank = dist.get_rank()
    tensor = torch.from_numpy(integers(rank, numel, salt))
    work = dist.all_reduce(tensor, op=dist.ReduceOp.AVG, async_op=True)
    work.wait()
    report = papilio.report(work)
    wrong, stop = 0, 0
    for chunk in report.chunks:
        assert chunk.start == stop
        stop = chunk.stop
        assert chunk.source != "local" or chunk.contributors == (rank,)
        part = [integers(r, numel, salt)[chunk.start : stop] for r in chunk.contributors]
        wrong += int((tensor[chunk.start : stop].numpy() != np.mean(part, axis=0)).sum())
    assert stop == numel
    return {"wrong": wrong, "outcome": report.outcome, "blamed": report.blamed}


def rounds(count: int, numel: int) -> dict:
    """So many of them; says on stdout when each begins."""
    outcomes: dict = {}
    wrong = 0
    for salt in range(count):
        print(json.dumps({"begin": salt}), flush=True)
        done = exact(numel, salt)
        wrong += done["wrong"]
        outcomes[done["outcome"]] = outcomes.get(done["outcome"], 0) + 1
    return {"wrong": wrong, "outcomes": outcomes}


def normals(rank: int, numel: int) -> np.ndarray:
    return np.random.default_rng(rank + numel).standard_normal(numel).astype(np.float32)


def error(numel: int, dtype: str = "float32") -> dict:
    """Error of a mean, in units of the largest magnitude, and a digest of its bits."""
    n = dist.get_world_size()
    tensor = torch.from_numpy(normals(dist.get_rank(), numel)).to(getattr(torch, dtype))
    inputs = [
        torch.from_numpy(normals(r, numel)).to(tensor.dtype).double().numpy() for r in range(n)
    ]
    dist.all_reduce(tensor, op=dist.ReduceOp.AVG)
    difference = np.abs(tensor.double().numpy() - np.mean(inputs, axis=0)).max()
    return {
        "error": float(difference / np.abs(inputs).max()),
        "crc": zlib.crc32(tensor.view(torch.uint8).numpy()),
        "outcome": papilio.last_report().outcome,
    }


def training(steps: int) -> dict:
    """A small regression with noise, under DDP: loss on all ranks' data before and after."""
    rank, n = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(1)
    inputs = torch.randn(n * 512, 64)
    teacher = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
    with torch.no_grad():
        targets = teacher(inputs) + 0.1 * torch.randn(n * 512, 4)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Tanh(), torch.nn.Linear(256, 4))
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    measure = torch.nn.MSELoss()

    def loss():
        with torch.no_grad():
            return float(measure(model(inputs), targets))

    first = loss()
    for step in range(steps):
        batch = torch.arange(64) * 8 + step % 8 + rank * 512
        optimizer.zero_grad()
        measure(wrapped(inputs[batch]), targets[batch]).backward()
        optimizer.step()
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return {"first": first, "last": loss(), "crc": zlib.crc32(weights.numpy().tobytes())}
