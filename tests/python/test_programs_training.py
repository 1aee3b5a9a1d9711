"""Training as users write it: the same ranks run the same program on Papilio and on Gloo."""

import pytest
from cluster import Cluster, Zygote

N = 4

MODEL = """
from torch.nn.parallel import DistributedDataParallel as DDP
torch.manual_seed(0)

def make():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 8))

def batch(step, size=16):
    return torch.randn(size, 64, generator=torch.Generator().manual_seed(step * n + rank))

def train(model, steps=5, lr=0.1, into=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = model(batch(step)).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses + [float(p.detach().double().sum()) for p in model.parameters()]
"""

# Programs whose sums are taken in another order by the two backends, with the tolerance.
ROUNDED = {
    "static_graph": (1e-5, "result = train(DDP(make(), static_graph=True))"),
    "bucket_view": (1e-5, "result = train(DDP(make(), gradient_as_bucket_view=True))"),
    "unused_parameters": (
        1e-5,
        """
class Half(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.other = make(), make()
    def forward(self, x):  # the ranks take different branches
        return self.used(x) if rank % 2 else self.used(x) + self.other(x)
result = train(DDP(Half(), find_unused_parameters=True))
""",
    ),
    "gradient_accumulation": (
        1e-5,
        """
model = DDP(make())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(4):
    optimizer.zero_grad()
    with model.no_sync():
        for part in range(3):
            model(batch(10 * step + part)).pow(2).mean().backward()
    model(batch(10 * step + 9)).pow(2).mean().backward()
    optimizer.step()
result = [float(p.detach().double().sum()) for p in model.parameters()]
""",
    ),
    "join": (
        1e-5,
        """
model = DDP(make())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with model.join():
    for step in range(3 + 2 * rank):  # uneven inputs
        optimizer.zero_grad()
        model(batch(step)).pow(2).mean().backward()
        optimizer.step()
result = [float(p.detach().double().sum()) for p in model.parameters()]
""",
    ),
    "fp16_hook": (
        2e-3,
        """
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
model = DDP(make())
model.register_comm_hook(None, default_hooks.fp16_compress_hook)
result = train(model)
""",
    ),
    "bf16_hook": (
        2e-2,
        """
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
model = DDP(make())
model.register_comm_hook(None, default_hooks.bf16_compress_hook)
result = train(model)
""",
    ),
    "powersgd_hook": (  # its callbacks wait for the futures of other collectives
        1e-3,
        """
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
model = DDP(make(), bucket_cap_mb=0.02)
state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=2, start_powerSGD_iter=3)
model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
result = train(model, steps=6, lr=0.01)
""",
    ),
    "fsdp2": (
        1e-5,
        """
from torch.distributed.fsdp import fully_shard
from torch.distributed.device_mesh import init_device_mesh
model, mesh = make(), init_device_mesh("cpu", (n,))
for part in (model[0], model[2], model):
    fully_shard(part, mesh=mesh)
    part.set_force_sum_reduction_for_comms(True)  # Gloo has no average
result = train(model)[:5]
""",
    ),
    "tensor_parallel": (
        1e-5,
        """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel, RowwiseParallel, parallelize_module)
mesh = init_device_mesh("cpu", (n,))
model = parallelize_module(make(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
x = torch.randn(16, 64, generator=torch.Generator().manual_seed(5))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
result = []
for step in range(4):
    optimizer.zero_grad()
    loss = model(x).pow(2).mean()
    loss.backward()
    optimizer.step()
    result.append(float(loss.detach()))
""",
    ),
}

# Programs that move bytes or add integers: equal, bit for bit.
EXACT = {
    "sync_batchnorm": """
model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(
    torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8)))
try:  # torch has it for accelerators alone; the same holds on both
    result = DDP(model)(batch(0)).tolist()
except ValueError as error:
    result = str(error)
""",
    "objects": """
mine = {"rank": rank, "text": "x" * (1000 * rank), "tensor": torch.arange(rank + 1)}
every = [None] * n
dist.all_gather_object(every, mine)
gathered = [None] * n if rank == 1 else None
dist.gather_object(mine, gathered, dst=1)
given = [{"root": 2, "part": k} for k in range(5)] if rank == 2 else [None] * 5
dist.broadcast_object_list(given, src=2)
part = [None]
dist.scatter_object_list(part, [f"for {r}" for r in range(n)] if rank == 0 else None, src=0)
passed = [mine["text"], rank]
if rank == 0:
    dist.send_object_list(passed, dst=3)
if rank == 3:
    dist.recv_object_list(passed, src=0)
plain = lambda items: [[o["rank"], len(o["text"]), o["tensor"].tolist()] for o in items]
result = [plain(every), plain(gathered) if gathered else None, given, part, passed]
""",
    "compiled": """
import torch.distributed._functional_collectives as f
def step(x):
    total = f.all_reduce(x * 2, "sum", dist.group.WORLD)
    whole = f.all_gather_tensor(total[:4] + rank, 0, dist.group.WORLD)
    return f.reduce_scatter_tensor(whole.repeat(2), "sum", 0, dist.group.WORLD) + 1
compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
x = torch.arange(64.0) + rank
result = [compiled(x).tolist(), torch.equal(compiled(x + 1), step(x + 1))]
""",
    "checkpoint": """
import shutil
import tempfile
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
where = [tempfile.mkdtemp() if rank == 0 else None]
dist.broadcast_object_list(where, src=0)
line, square = init_device_mesh("cpu", (n,)), init_device_mesh("cpu", (2, 2))
full = torch.arange(24.0 * 16).reshape(24, 16)
saved = {"weight": distribute_tensor(full, line, [Shard(0)]), "step": 7, "bias": torch.arange(5.0)}
dcp.save(saved, checkpoint_id=where[0])
result = []
for mesh, placements in (
    (line, [Shard(1)]), (line, [Replicate()]), (square, [Shard(0), Shard(1)]),
    (square, [Shard(1), Replicate()]),
):  # loaded into another layout than it was saved from
    blank = distribute_tensor(torch.zeros(24, 16), mesh, placements)
    state = {"weight": blank, "step": 0, "bias": torch.zeros(5)}
    dcp.load(state, checkpoint_id=where[0])
    result += [torch.equal(state["weight"].full_tensor(), full), state["step"]]
    result += state["bias"].tolist() + state["weight"].to_local().flatten().tolist()
dist.barrier()
if rank == 0:
    shutil.rmtree(where[0])
""",
}


@pytest.fixture(scope="module")
def both():
    """Ranks on Papilio and ranks on Gloo, forked from a process that has the large parts loaded."""
    before, Zygote._instance = Zygote._instance, Zygote()
    modules = ("torch.distributed.fsdp", "torch.distributed.tensor.parallel", "torch._dynamo")
    for module in (*modules, "torch.distributed.checkpoint"):
        Zygote.get().load(module)
    with Cluster(N, init=False) as ours, Cluster(N, init=False) as theirs:
        for ranks, backend in ((ours, "papilio"), (theirs, "gloo")):
            for answer in ranks.all("init", timeout=90, backend=backend):
                assert answer["ok"], answer
        yield ours, theirs
    Zygote.get().end()
    Zygote._instance = before


def run(both, source: str) -> tuple:
    """What it gives on every rank, on Papilio and on Gloo."""
    return tuple(ranks.run(MODEL + source, timeout=100) for ranks in both)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ROUNDED)
def test_agrees_with_gloo(both, name):
    tolerance, source = ROUNDED[name]
    for ours, theirs in zip(*run(both, source), strict=True):
        assert len(ours) >= 4
        assert ours == pytest.approx(theirs, rel=tolerance, abs=tolerance)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", EXACT)
def test_equals_gloo(both, name):
    ours, theirs = run(both, EXACT[name])
    assert ours[0] is not None
    assert ours == theirs


@pytest.mark.timeout(60)
def test_every_round_was_whole(both):
    """None of the programs met a fault, so no average may have missed anybody."""
    for outcomes in both[0].run("result = sorted({r.outcome for r in papilio.reports(last=256)})"):
        assert outcomes == ["complete"]
