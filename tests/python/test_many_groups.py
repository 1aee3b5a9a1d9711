"""Groups come and go on the one engine of a process: nothing of them stays behind."""

import time

import pytest
from cluster import SOAK, Cluster

MIB = 1 << 20
SERIES = 50  # groups per command
GROUPS = 5000 if SOAK else 1000
WARM = 100
ALIVE = 1000 if SOAK else 400

# Every other one is a subgroup; each is used by several collectives, then destroyed or split.
CYCLE = """
wrong = []
for turn in range({series}):
    members = list(range(n)) if turn % 2 else [0, 1]
    group = dist.new_group(members)
    if rank not in members:
        continue
    tensor = torch.full((20_000,), float(rank + 1))
    dist.all_reduce(tensor, group=group)
    count = torch.tensor([rank + 1])
    dist.all_reduce(count, group=group)
    parts = torch.zeros(len(members) * 300)
    dist.all_gather_into_tensor(parts, torch.full((300,), float(rank)), group=group)
    if rank < 2:
        got = torch.zeros(50)
        works = [dist.isend(torch.full((50,), float(rank)), 1 - rank, group=group),
                 dist.irecv(got, 1 - rank, group=group)]
        for work in works:
            work.wait()
        if float(got.mean()) != 1 - rank:
            wrong.append(["recv", turn])
    total = sum(r + 1 for r in members)
    if float(tensor.min()) != total or float(tensor.max()) != total or int(count) != total:
        wrong.append(["all_reduce", turn])
    if not torch.equal(parts, torch.arange(len(members)).float().repeat_interleave(300)):
        wrong.append(["all_gather", turn])
    dist.destroy_process_group(group)
result = wrong
"""

ALIVE_AT_ONCE = """
groups = [dist.new_group(list(range(n)), use_local_synchronization=True) for _ in range({count})]
works, tensors = [], []
for k, group in enumerate(groups):  # all of them at work at the same time
    tensors.append(torch.full((1000,), float(rank + k)))
    works.append(dist.all_reduce(tensors[-1], group=group, async_op=True))
    works.append(dist.barrier(group, async_op=True))
for work in reversed(works):
    work.wait()
total = sum(range(n))
wrong = [k for k, t in enumerate(tensors) if float(t.min()) != total + n * k or t.min() != t.max()]
for group in groups[::2] + groups[1::2]:  # not in the order of their creation
    dist.destroy_process_group(group)
result = wrong
"""


def footprint(ranks) -> list:
    ranks.run("import gc\ngc.collect()\ndist.barrier()")
    return [rank.call("footprint") for rank in ranks]


def assert_flat(ranks, before: list, most: int) -> None:
    for rank, earlier, later in zip(ranks, before, footprint(ranks), strict=True):
        growth = later["resident"] - earlier["resident"]
        print(
            f"rank {rank.rank}: {growth / 1024:.0f} KiB more, {len(later['fds'])} descriptors, "
            f"{len(later['threads'])} threads, {len(later['shm'])} shared segments"
        )
        assert growth < most, f"{growth / MIB:.1f} MiB more"
        for what in ("fds", "threads", "shm"):
            assert len(later[what]) <= len(earlier[what]), (what, earlier[what], later[what])


@pytest.mark.timeout(900 if SOAK else 120)
def test_created_used_once_and_destroyed():
    with Cluster(3) as ranks:
        cycle = CYCLE.format(series=SERIES)
        for _ in range(WARM // SERIES):
            assert ranks.run(cycle) == [[]] * 3
        before = footprint(ranks)
        begun = time.monotonic()
        for _ in range(GROUPS // SERIES):
            assert ranks.run(cycle) == [[]] * 3
        print(f"{GROUPS} groups in {time.monotonic() - begun:.1f} s")
        # torch itself keeps a little of every group (names, counters in its store).
        assert_flat(ranks, before, 4 * MIB + GROUPS * 4 * 1024)


@pytest.mark.timeout(900 if SOAK else 120)
def test_hundreds_alive_at_once():
    with Cluster(3) as ranks:
        source = ALIVE_AT_ONCE.format(count=ALIVE)
        assert ranks.run(source, timeout=100) == [[]] * 3
        before = footprint(ranks)
        begun = time.monotonic()
        assert ranks.run(source, timeout=100) == [[]] * 3
        print(f"{ALIVE} groups at once in {time.monotonic() - begun:.1f} s")
        assert_flat(ranks, before, 4 * MIB)
