"""Programs that use torch.distributed as users do, each beside the same program on Gloo."""

import pytest
from cluster import Cluster, Zygote

MESH = """
from torch.distributed.device_mesh import init_device_mesh
mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))
"""

TENSORS = (
    MESH
    + """
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
full = torch.arange(64.0).reshape(8, 8)
spread = distribute_tensor(full, mesh, [Shard(0), Shard(1)])
result = [spread.to_local().tolist()]
for placements in ([Replicate(), Shard(0)], [Shard(1), Shard(0)], [Replicate(), Replicate()]):
    moved = spread.redistribute(mesh, placements)
    result.append([moved.to_local().tolist(), torch.equal(moved.full_tensor(), full)])
sums = DTensor.from_local(torch.ones(4, 4) * rank, mesh, [Partial(), Partial()])
result.append(sums.redistribute(mesh, [Shard(0), Replicate()]).to_local().tolist())
"""
)

FUNCTIONAL = """
import torch.distributed._functional_collectives as f
group, mine = dist.group.WORLD, torch.ones(20) * (rank + 1)
results = [
    f.all_reduce(mine, "sum", group),
    f.all_reduce(mine, "avg", group) if dist.get_backend() == "papilio" else mine * 0 + 2.5,
    f.all_gather_tensor(mine, 0, group),
    f.reduce_scatter_tensor(torch.arange(8.0), "sum", 0, group),
    *f.all_reduce_coalesced([mine, mine[:3] * 2], "sum", group),
    *f.all_gather_into_tensor_coalesced([mine, mine[:3] * 2], group),
    *f.reduce_scatter_tensor_coalesced([torch.ones(8), torch.arange(4.0)], "sum", [0, 0], group),
    f.all_to_all_single(torch.arange(8.0) + rank, None, None, group),
    f.broadcast(mine, 2, group),
]
result = [tensor.tolist() for tensor in results]
"""

TRAIN = """
losses = []
for step in range(4):
    batch = torch.randn(16, 64, generator=torch.Generator().manual_seed(step * n + rank))
    loss = model(batch).pow(2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(float(loss.detach()))
result = losses
"""

# Gradients are scattered within and all-reduced across the halves: every collective of HSDP.
SHARDED = (
    MESH
    + """
from torch.distributed.fsdp import fully_shard
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
for part in (model[0], model[2], model):
    fully_shard(part, mesh=mesh)
    part.set_force_sum_reduction_for_comms(True)  # Gloo has no average
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
    + TRAIN
)

ZERO = (
    """
from torch.distributed.optim import ZeroRedundancyOptimizer
torch.manual_seed(0)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64))
optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.Adam, lr=0.01)
"""
    + TRAIN
)


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """Ranks of this module are forked from a process that has the large parts of torch loaded."""
    before, Zygote._instance = Zygote._instance, Zygote()
    for module in ("torch.distributed.fsdp", "torch.distributed.tensor", "torch._dynamo"):
        Zygote.get().load(module)
    yield
    Zygote.get().end()
    Zygote._instance = before


def on(backend: str, source: str, before: str = "") -> list:
    """What the program gives on every rank; ``before`` runs before the group is made."""
    with Cluster(4, init=False) as ranks:
        ranks.run(before)
        for answer in ranks.all("init", timeout=90, backend=backend):
            assert answer["ok"], answer
        return ranks.run(source, timeout=100)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("source", [TENSORS, FUNCTIONAL], ids=["dtensor", "functional"])
def test_equals_gloo(source):
    assert on("papilio", source) == on("gloo", source)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("source", [SHARDED, ZERO], ids=["hsdp", "zero"])
def test_training_agrees_with_gloo(source):
    for ours, theirs in zip(on("papilio", source), on("gloo", source), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)  # sums are taken in another order


DETAIL = """
tensor = torch.ones(5)
dist.all_reduce(tensor)
result = [float(tensor[0])]
gathered = [torch.zeros(3) for _ in range(n)]
dist.all_gather(gathered, torch.ones(3) * rank)
result += [float(g[0]) for g in gathered]
pair = [torch.ones(3), torch.ones(40)]
dist.group.WORLD.allreduce_coalesced(pair, dist.AllreduceCoalescedOptions()).wait()
result += [float(p[0]) for p in pair]
dist.monitored_barrier()
half = dist.new_group([0, 2])
if rank in (0, 2):
    dist.all_reduce(tensor, group=half)
result.append(float(tensor[0]))
try:
    dist.all_reduce(torch.ones(3 + rank // 2))
except RuntimeError as error:
    result.append("Detected mismatch between collectives on ranks" in str(error))
"""


@pytest.mark.timeout(120)
def test_detail_mode_checks_every_collective():
    # The variable TORCH_DISTRIBUTED_DEBUG is read when torch is loaded, before a rank is forked.
    answers = on("papilio", DETAIL, before="dist.set_debug_level(dist.DebugLevel.DETAIL)")
    for rank, answer in enumerate(answers):
        last = 8.0 if rank in (0, 2) else 4.0
        assert answer == [4.0, 0.0, 1.0, 2.0, 3.0, 4.0, 4.0, last, True]
