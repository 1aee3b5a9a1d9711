"""Many fault-free all-reduces of mixed sizes: complete, bit-identical, memory stays flat."""

import math
import random

import pytest
from cluster import SOAK, Cluster

pytestmark = pytest.mark.usefixtures("lane")

MIB = 1 << 20
ROUNDS = 10_000 if SOAK else 1_000
LARGEST = 4 * MIB  # elements of float32: 16 MiB


def sizes(count: int, seed: int) -> list:
    """Log-uniform from 1 element to 16 MiB; both ends included."""
    chance = random.Random(seed)
    out = [int(math.exp(chance.uniform(0, math.log(LARGEST)))) for _ in range(count - 2)]
    return out + [1, LARGEST]


@pytest.mark.timeout(3600 if SOAK else 240)
def test_mixed_sizes():
    with Cluster(4) as ranks:
        warm = sizes(100, seed=0) + [LARGEST] * 4
        for answer in ranks.all("many", sizes=warm, salt=1, timeout=200):
            assert answer["ok"], answer
        before = [rank.call("footprint") for rank in ranks]
        answers = ranks.all("many", sizes=sizes(ROUNDS, seed=1), salt=1000, timeout=3000)
        for answer in answers:
            assert answer["ok"], answer
            assert answer["wrong"] == 0
            assert answer["outcomes"] == {"complete": ROUNDS}, answer
        assert len({answer["digest"] for answer in answers}) == 1
        for rank, earlier in zip(ranks, before, strict=False):
            later = rank.call("footprint")
            assert later["resident"] - earlier["resident"] < 32 * MIB, (earlier, later)
            assert len(later["fds"]) == len(earlier["fds"])
            assert len(later["threads"]) == len(earlier["threads"])
            assert rank.call("events")["events"] == []
            assert rank.run("result = len(papilio.blacklist())") == 0


@pytest.mark.timeout(120)
def test_memory_of_a_large_all_reduce():
    """64 MiB on 4 ranks: at most 128 MiB beyond the tensor, at the peak."""
    prepare = """
import builtins
builtins.tensor = torch.ones(16 * 1024 * 1024)
dist.barrier()
"""
    reduce = """
import builtins
for _ in range(5):
    dist.all_reduce(builtins.tensor, op=dist.ReduceOp.AVG)
result = float(builtins.tensor.min())
"""
    with Cluster(4) as ranks:
        ranks.run(prepare)
        before = ranks.all("footprint", restart_peak=True)
        assert ranks.run(reduce) == [1.0] * 4
        for earlier, later in zip(before, ranks.all("footprint"), strict=False):
            growth = later["peak"] - earlier["resident"]
            print(f"{growth / MIB:.0f} MiB at most above the tensor")
            assert growth < 128 * MIB, f"{growth / MIB:.0f} MiB above the tensor"
