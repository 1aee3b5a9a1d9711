"""Plain DistributedDataParallel: the same parameters everywhere, equal to one process that averages
the gradients itself, and training that goes on without a rank."""

import time

import pytest
from cluster import Cluster

MODEL = """
import builtins
from torch.nn.parallel import DistributedDataParallel

def make():
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.BatchNorm1d(64), torch.nn.ReLU(),
                               torch.nn.Linear(64, 300), torch.nn.ReLU(), torch.nn.Linear(300, 5))

def batch(r, step):
    generator = torch.Generator().manual_seed(1000 * step + r)
    return torch.randn(8, 20, generator=generator), torch.randn(8, 5, generator=generator)

def loss_of(model, r, step):
    x, y = batch(r, step)
    return ((model(x) - y) ** 2).mean()

def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

def digest(tensors):
    import hashlib
    h = hashlib.sha256()
    for t in tensors:
        h.update(t.detach().contiguous().numpy().tobytes())
    return h.hexdigest()
"""

TRAIN = (
    MODEL
    + """
model = make()
if rank != 0:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(rank)  # DDP takes rank 0's at the start
ddp = DistributedDataParallel(model, bucket_cap_mb=0.02, find_unused_parameters={unused})
optimizer = optimizer_of(ddp)
for step in range(20):
    optimizer.zero_grad()
    loss_of(ddp, rank, step).backward()
    optimizer.step()

# The oracle: one model per rank in this process, gradients averaged in rank order.
replicas = [make() for _ in range(n)]
optimizers = [optimizer_of(m) for m in replicas]
for step in range(20):
    with torch.no_grad():  # buffers of rank 0 before each forward
        for other in replicas[1:]:
            for b, b0 in zip(other.buffers(), replicas[0].buffers()):
                b.copy_(b0)
    for r, m in enumerate(replicas):
        optimizers[r].zero_grad()
        loss_of(m, r, step).backward()
    for parameters in zip(*(m.parameters() for m in replicas)):
        mean = sum(p.grad / n for p in parameters)
        for p in parameters:
            p.grad.copy_(mean)
    for o in optimizers:
        o.step()
far = max(float((a - b).abs().max()) for a, b in zip(model.parameters(), replicas[0].parameters()))
outcomes = sorted({{r.outcome for r in papilio.reports(last=256)}})
result = [digest(model.parameters()), far, outcomes]
"""
)

GO_ON = (
    MODEL
    + """
model = make()
ddp = DistributedDataParallel(model, bucket_cap_mb=0.02, broadcast_buffers={buffers})
optimizer = optimizer_of(ddp)
longest = 0.0
losses = []
for step in range(60):
    if step == 20:
        print('{{"step": 20}}', flush=True)
    begin = time.monotonic()
    optimizer.zero_grad()
    loss = loss_of(ddp, rank, step % 10)
    loss.backward()
    optimizer.step()
    longest = max(longest, time.monotonic() - begin)
    losses.append(float(loss.detach()))
    if step >= 20:
        time.sleep(0.01)  # leaves the kill time to hit the middle
last = papilio.last_report()
result = [len(losses), longest, losses[-1] < losses[0], sorted(last.blamed.items()),
          digest(model.parameters())]
"""
)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("unused", [False, True])
def test_equal_to_one_process(unused):
    with Cluster(4) as ranks:
        answers = ranks.run(TRAIN.format(unused=unused), timeout=80)
        assert len({digest for digest, _, _ in answers}) == 1
        for _, far, outcomes in answers:
            assert far < 1e-5
            assert outcomes == ["complete"]


@pytest.mark.timeout(90)
def test_rank_0_dies_with_the_store():
    with Cluster(4, store_in_rank0=True) as ranks:
        for rank in ranks:
            rank.send("collective", source=GO_ON.format(buffers=False))
        for rank in ranks:
            assert rank.receive() == {"step": 20}
        ranks[0].kill()
        for rank in (1, 2, 3):
            answer = ranks[rank].receive(timeout=60)
            assert answer["ok"], answer["trace"]
            steps, longest, better, blamed, _ = answer["result"]
            assert steps == 60 and better, answer
            assert longest < 2.0, answer
            assert blamed == [[0, "dead"]], answer


@pytest.mark.timeout(90)
def test_buffers_need_rank_0():
    """DDP broadcasts buffers from rank 0 before each forward: without it, an error that says so."""
    with Cluster(4, store_in_rank0=True) as ranks:
        for rank in ranks:
            rank.send("collective", source=GO_ON.format(buffers=True))
        for rank in ranks:
            assert rank.receive() == {"step": 20}
        ranks[0].kill()
        killed = time.monotonic()
        for rank in (1, 2, 3):
            answer = ranks[rank].receive(timeout=60)
            assert (answer["error"], answer["ranks"]) == ("PeerFailed", [0]), answer
        assert time.monotonic() - killed < 2.0
