"""Groups made of a group: split_group, shrink_group, merge_remote_group, device meshes."""

import os

import pytest
import torch.distributed as dist
from cluster import Cluster, wait_until

# torch 2.14 splits only where there is an accelerator to which the default group is bound. These
# machines have none, so the ranks are told that their CPU is one: from there on it is torch's own
# code, and papilio serves both devices with one backend.
ON_A_DEVICE = """
from unittest import mock
default = dist.group.WORLD
default.bound_device_id = torch.device("cuda:0")
accelerator = mock.patch.multiple(
    torch.accelerator, is_available=lambda: True, current_accelerator=lambda: torch.device("cpu"))
accelerator.start()
def total(group, value=None):
    tensor = torch.full((100,), float(rank if value is None else value))
    dist.all_reduce(tensor, group=group)
    assert tensor.min() == tensor.max()
    return float(tensor[0])
"""
OFF = """
accelerator.stop()
default.bound_device_id = None
"""

SPLIT = (
    ON_A_DEVICE
    + """
try:
    halves = dist.split_group(split_ranks=[[0, 1], [3, 2]])
    one = dist.split_group(split_ranks=[[1, 3]])  # overlaps both
    again = dist.split_group(split_ranks=[[1, 3]])  # the same ranks a second time
    sums = [total(halves)]
    sums += [total(group) for group in (one, again) if rank in (1, 3)]
    ranks = [dist.get_rank(halves), dist.get_world_size(halves)]
    ranks.append(dist.get_process_group_ranks(halves))
    outside = one is dist.GroupMember.NON_GROUP_MEMBER
    source = torch.tensor([rank])
    dist.broadcast(source, group_src=0, group=halves)
    below = dist.split_group(halves, split_ranks=[[1]])  # a group of a group of one rank
    ranks.append(below is not dist.GroupMember.NON_GROUP_MEMBER and dist.get_world_size(below))
    new = dist.new_group([0, 2])  # goes through perform_nocolor_split on the ranks outside
    if rank in (0, 2):
        sums.append(total(new))
    dist.destroy_process_group(halves)
    everybody = total(None)
finally:
"""
    + "\n".join("    " + line for line in OFF.strip().splitlines())
    + """
result = [sums, ranks, outside, int(source), everybody]
"""
)

CARRIED = """
pg = dist.group.WORLD
def options_of(group):
    backend = group._get_backend(torch.device("cpu"))
    return papilio.options(backend), backend.options.timeout
inherited = pg.split_group(list(range(n)), timeout=timedelta(seconds=7), group_name="inherited")
own = papilio.Options(patience=1.25, weight=2.0, mode="strict")
given = pg.split_group(list(range(n)), timeout=timedelta(seconds=8), opts=own, group_name="given")
try:
    pg.split_group(list(range(n)), opts=papilio.Options(patience=-1), group_name="bad")
    refused = "accepted"
except ValueError as error:
    refused = str(error)
wrong = []
for ranks in ([0, 0], [0, 99], []):
    try:
        pg._get_backend(torch.device("cpu")).split(dist.HashStore(), ranks, own)
        wrong.append("accepted")
    except ValueError as error:
        wrong.append("different ranks" in str(error))
(a, a_limit), (b, b_limit) = options_of(inherited), options_of(given)
again = dist.new_group(pg_options=given._get_backend(torch.device("cpu")).options)
result = [a == papilio.options(), a.patience, a.min_peers, a_limit.total_seconds(),
          b.patience, b.weight, b.mode, b.min_peers, b_limit.total_seconds(), refused, wrong,
          papilio.options(again) == b]
"""

SPLIT_LATER = """
# ProcessGroup.split_group clones the store for every backend; papilio's does not look into it.
parent = dist.group.WORLD._get_backend(torch.device("cpu"))
backend = parent.split(dist.HashStore(), [3, 0, 2], parent.options)
tensor = torch.full((1000,), float(rank + 1))
work = backend.allreduce([tensor])
work.wait()
report = papilio.report(work)
states = [peer.state for peer in papilio.peers(backend)]
try:
    backend.allgather([[torch.zeros(1) for _ in range(3)]], [torch.ones(1)]).wait()
    gathered = "passed"
except papilio.PeerFailed as error:
    gathered = list(error.ranks)
result = [float(tensor[0]), sorted(report.chunks[0].contributors), states, gathered]
"""

SHRINK = """
dist.shrink_group([1], shrink_flags=1)
tensor = torch.full((1000,), float(rank + 1))
dist.all_reduce(tensor)
gathered = [torch.zeros(1) for _ in range(dist.get_world_size())]
dist.all_gather(gathered, torch.tensor([float(rank)]))
result = [dist.get_rank(), dist.get_world_size(), float(tensor[0]), [float(t) for t in gathered],
          [peer.state for peer in papilio.peers()], papilio.options().patience]
"""

MERGE = """
store = dist.TCPStore("127.0.0.1", {port}, is_master=False)
merged = dist.group.WORLD.merge_remote_group(
    store, 4, timeout=timedelta(seconds=30), group_name="both")
backend = merged._get_backend(torch.device("cpu"))
tensor = torch.full((1000,), float(10 * {job} + rank))
backend.allreduce([tensor]).wait()
gathered = [torch.zeros(1, dtype=torch.int64) for _ in range(4)]
backend.allgather([gathered], [torch.tensor([10 * {job} + rank])]).wait()
result = [backend.size(), backend.rank(), float(tensor[0]), [int(t) for t in gathered],
          papilio.options(backend).patience]
"""

MESH = """
from torch.distributed.device_mesh import init_device_mesh
mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
result = []
for name in ("replicate", "shard"):
    group = mesh[name].get_group()
    tensor = torch.full((64,), float(rank))
    dist.all_reduce(tensor, group=group)
    result.append([float(tensor[0]), dist.get_rank(group)])
flat = mesh["replicate", "shard"]._flatten("all").get_group()
tensor = torch.full((64,), float(rank))
dist.all_reduce(tensor, group=flat)
result.append(float(tensor[0]))
"""


@pytest.fixture(scope="module")
def ranks():
    with Cluster(4, patience=3.5, min_peers=1) as cluster:
        yield cluster


@pytest.mark.timeout(90)
def test_split_group(ranks):
    sums = {0: [1, 2], 1: [1, 4, 4], 2: [5, 2], 3: [5, 4, 4]}
    members = {0: [0, 1], 1: [0, 1], 2: [3, 2], 3: [3, 2]}
    for rank, answer in enumerate(ranks.run(SPLIT)):
        first, of_half, outside, source, everybody = answer
        mine = members[rank]
        assert first == [float(s) for s in sums[rank]]
        assert of_half[:2] == [mine.index(rank), 2]
        assert sorted(of_half[2]) == sorted(mine)
        assert of_half[3] == (mine.index(rank) == 1 and 1)
        assert outside == (rank not in (1, 3))
        assert source == mine[0]
        assert everybody == 6.0


@pytest.mark.timeout(60)
def test_options_are_carried_over(ranks):
    for answer in ranks.run(CARRIED):
        assert answer[:4] == [True, 3.5, 1, 7.0]
        assert answer[4:9] == [1.25, 2.0, "strict", 1, 8.0]
        assert "patience=-1" in answer[9] and "between" in answer[9]
        assert answer[10:] == [[True] * 3, True]


@pytest.mark.timeout(60)
def test_device_mesh(ranks):
    for rank, answer in enumerate(ranks.run(MESH)):
        row, column = divmod(rank, 2)
        assert answer == [[2.0 * column + 2, row], [4.0 * row + 1, column], 6.0]


@pytest.mark.timeout(90)
def test_split_without_a_store_and_with_a_dead_member():
    with Cluster(4) as ranks:
        ranks.run("dist.barrier()")
        ranks[1].kill()  # no member
        ranks[2].kill()
        wait_until(
            lambda: ranks[0].run("result = papilio.peers()[2].state") == "dead",
            what="the death to be known",
        )
        for rank, answer in zip((0, 3), ranks.run(SPLIT_LATER, ranks=[0, 3]), strict=True):
            total, contributors, states, gathered = answer
            assert contributors == [0, 1]  # ranks 3 and 0 of the parent
            assert total == 3 * (1 + 4) / 2  # three times the mean of two
            assert states[2] == "dead" and gathered == [2]
            assert states[1 if rank == 0 else 0] == "self"


@pytest.mark.timeout(90)
def test_shrink_group_after_a_death():
    with Cluster(4, patience=2.5) as ranks:
        ranks.run("dist.barrier()")
        ranks[1].kill()
        for rank, answer in zip((0, 2, 3), ranks.run(SHRINK, ranks=[0, 2, 3]), strict=True):
            place = [0, 2, 3].index(rank)
            states = ["live", "live", "live"]
            states[place] = "self"
            assert answer == [place, 3, 8.0, [0.0, 2.0, 3.0], states, 2.5]


@pytest.mark.timeout(90)
def test_merge_of_two_jobs():
    secret = {"PAPILIO_SECRET": os.urandom(8).hex()}
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with (
        Cluster(2, patience=1.5, environment=dict(secret)) as first,
        Cluster(2, patience=2.5, environment=dict(secret)) as second,
    ):
        both = [*first, *second]
        for index, rank in enumerate(both):
            rank.send("collective", source=MERGE.format(port=store.port, job=index // 2))
        for index, rank in enumerate(both):
            answer = rank.receive()
            assert answer["ok"], answer
            size, own, total, gathered, patience = answer["result"]
            assert (size, total, patience) == (4, 22.0, (1.5, 2.5)[index // 2])
            assert gathered[own] == 10 * (index // 2) + index % 2
            assert sorted(gathered) == [0, 1, 10, 11]
