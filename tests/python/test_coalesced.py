"""Several collectives as one Work, coalescing blocks, sparse sums, gather into one tensor."""

import signal

import pytest
from cluster import Cluster


@pytest.fixture(scope="module")
def trio():
    with Cluster(3) as ranks:
        yield ranks


COALESCED = """
wrong = []
def same(what, got, want):
    if not torch.equal(got, want):
        wrong.append([what, got.tolist()[:4], want.tolist()[:4]])

# Sizes on both sides of every threshold, and two dtypes in one call.
sizes = [0, 1, 15, 16, 1000, 200_003]
tensors = [torch.full((s,), float(rank + 1)) for s in sizes]
tensors.append(torch.full((7,), rank + 1))
opts = dist.AllreduceCoalescedOptions()
work = dist.group.WORLD.allreduce_coalesced(tensors, opts)
doubled = work.get_future().then(lambda future: [2 * t for t in future.value()])
work.wait()
for tensor in tensors:
    same(f"all_reduce_coalesced {tensor.numel()}", tensor, torch.full_like(tensor, 6))
if not (work.is_completed() and work.is_success()) or len(work.result()) != len(tensors):
    wrong.append("the work does not say how it went")
if [float(t.sum()) for t in doubled.wait()] != [2.0 * float(t.sum()) for t in tensors]:
    wrong.append("its future gives something else")

inputs = [torch.full((s,), float(10 * rank + k)) for k, s in enumerate(sizes)]
outputs = [torch.zeros(n * s) for s in sizes]
dist.group.WORLD.all_gather_single_coalesced(outputs, inputs).wait()
for k, s in enumerate(sizes):
    want = torch.cat([torch.full((s,), float(10 * r + k)) for r in range(n)])
    same(f"all_gather_single_coalesced {s}", outputs[k], want)

lists = [[torch.zeros(s) for s in sizes] for _ in range(n)]
dist.all_gather_coalesced(lists, inputs)
for r in range(n):
    for k, s in enumerate(sizes):
        same(f"all_gather_coalesced {s}", lists[r][k], torch.full((s,), float(10 * r + k)))

outputs = [torch.zeros(s) for s in sizes]
inputs = [torch.arange(n * s).float() + rank for s in sizes]
dist.group.WORLD.reduce_scatter_single_coalesced(outputs, inputs).wait()
for k, s in enumerate(sizes):
    want = n * (torch.arange(s).float() + rank * s) + sum(range(n))
    same(f"reduce_scatter_single_coalesced {s}", outputs[k], want)
result = wrong
"""


@pytest.mark.timeout(60)
def test_coalesced_collectives(trio):
    assert trio.run(COALESCED) == [[]] * 3


BLOCKS = """
from torch.distributed.distributed_c10d import _coalescing_manager
result = []
cpu = torch.device("cpu")

tensors = [torch.full((s,), 1.0) for s in (3, 1000)]
with _coalescing_manager(device=cpu, async_ops=True) as block:
    for tensor in tensors:
        dist.all_reduce(tensor)
block.wait()
result.append([float(t.mean()) for t in tensors])

# What torch does not capture itself: other operations, one Work for all of them.
source, received = torch.full((5,), float(rank)), torch.zeros(5)
pg = dist.group.WORLD
pg._start_coalescing(cpu)
pg.broadcast(source, 1)
pg.send([source.clone()], (rank + 1) % n, 3)
pg.recv([received], (rank - 1) % n, 3)
# Another thread's collective is not part of this thread's block.
tensor = torch.ones(4)
other = threading.Thread(target=lambda: dist.all_reduce(tensor))
other.start()
other.join()
work = pg._end_coalescing(cpu)
work.wait()
result.append([float(source[0]), len(work.result()), float(tensor[0])])

# torch leaves a block open when its body throws; the next one starts afresh.
pg._start_coalescing(cpu)
dist.barrier()
pg._start_coalescing(cpu)
empty = pg._end_coalescing(cpu)
empty.wait()
result.append([empty.is_completed(), empty.is_success(), empty.result()])
try:
    pg._end_coalescing(cpu)
except ValueError as error:
    result.append("without startCoalescing" in str(error))
"""


@pytest.mark.timeout(60)
def test_blocks_return_one_work(trio):
    for answer in trio.run(BLOCKS):
        assert answer == [[3.0, 3.0], [1.0, 2, 3.0], [True, True, []], True]


WRONG = """
pg = dist.group.WORLD
before = papilio.stats()["rounds"]
result = []
def refused(call, words):
    try:
        call()
    except (ValueError, TypeError) as error:
        result.append(words in str(error))
    else:
        result.append("accepted")
options = dist.AllreduceCoalescedOptions()
# The first tensor is good: nothing may be sent for it either.
mixed = [torch.ones(3), torch.ones(4, 4).t()[:, :2]]
refused(lambda: pg.allreduce_coalesced(mixed, options), "contiguous")
refused(lambda: pg.all_gather_single_coalesced([torch.ones(4)], [torch.ones(2)]), "elements")
many = [torch.ones(6), torch.ones(6)]
refused(lambda: pg.all_gather_single_coalesced(many, [torch.ones(2)]), "as many outputs as inputs")
refused(lambda: pg.all_gather_single_coalesced([torch.ones(6).long()], [torch.ones(2)]), "dtypes")
refused(lambda: pg.reduce_scatter_single_coalesced([torch.ones(2)], [torch.ones(7)]), "elements")
refused(lambda: pg.allgather_coalesced([[torch.ones(2)]], [torch.ones(2)]), "one output list per")
refused(lambda: dist.send(torch.ones(1), (rank + 1) % n, tag=-1), "must not be negative")
result.append(papilio.stats()["rounds"] == before)
"""


@pytest.mark.timeout(60)
def test_wrong_arguments_send_nothing(trio):
    for answer in trio.run(WRONG):
        assert answer == [True] * 8


GATHER = """
result = []
for numel in (0, 1, 50_000):
    mine = torch.full((numel,), float(rank))
    out = torch.zeros(n * numel) if rank == 1 else torch.zeros(0)
    opts = dist.GatherOptions()
    opts.rootRank = 1
    dist.group.WORLD.gather_single(out, mine, opts).wait()
    want = torch.cat([torch.full((numel,), float(r)) for r in range(n)])
    result.append(rank != 1 or torch.equal(out, want))
"""


@pytest.mark.timeout(60)
def test_gather_into_one_tensor(trio):
    assert trio.run(GATHER) == [[True] * 3] * 3


SPARSE = """
result = []
for dtype in (torch.float32, torch.float64, torch.int64, torch.bfloat16, torch.uint8):
    for dense in ((), (2,), (3, 2)):
        # Overlapping and single entries, one twice, and none at all on the last rank.
        count = 0 if rank == n - 1 else rank + 3
        indices = torch.stack([torch.arange(count) % 4, torch.arange(count) * 7 % 5])
        values = torch.ones((count, *dense)).to(dtype) * (rank + 1)
        mine = torch.sparse_coo_tensor(indices, values, (4, 5, *dense))
        want = torch.zeros((4, 5, *dense), dtype=dtype)
        for r in range(n - 1):
            for k in range(r + 3):
                want[k % 4, k * 7 % 5] += r + 1
        dist.all_reduce(mine)
        result.append(mine.is_sparse and torch.equal(mine.to_dense(), want))
refusals = []
dtype = (torch.int32, torch.int64)[rank % 2]
for tensor, op in (
    (torch.sparse_coo_tensor([[0]], [1.0], (2 + rank,)), dist.ReduceOp.SUM),
    (torch.sparse_coo_tensor([[0]], torch.ones(1, dtype=dtype), (2,)), dist.ReduceOp.SUM),
    (torch.sparse_coo_tensor([[0]], [1.0], (2,)), dist.ReduceOp.MAX),
):
    try:
        dist.all_reduce(tensor, op)
        refusals.append("accepted")
    except ValueError as error:
        refusals.append(str(error))
dist.barrier()  # everybody still agrees on what comes next
result = [result, refusals]
"""


@pytest.mark.timeout(60)
def test_sparse_all_reduce(trio):
    for good, refusals in trio.run(SPARSE):
        assert good == [True] * 15
        assert "another dtype or shape on rank" in refusals[0]
        assert "another dtype or shape on rank" in refusals[1]
        assert "SUM only" in refusals[2]


ONE_FAILS = """
pg = dist.group.WORLD
inputs = [torch.ones(10), torch.ones(20)]
outputs = [torch.zeros(n * 10), torch.zeros(n * 20)]
work = pg.all_gather_single_coalesced(outputs, inputs)
try:
    work.wait()
    result = "passed"
except papilio.PeerFailed as error:
    result = [list(error.ranks), work.is_completed(), work.is_success()]
"""


@pytest.mark.timeout(60)
def test_a_dead_rank_ends_a_coalesced_call_with_its_name():
    with Cluster(3) as ranks:
        ranks[2].signal(signal.SIGKILL)
        for answer in ranks.run(ONE_FAILS, ranks=[0, 1]):
            assert answer == [[2], True, False]
