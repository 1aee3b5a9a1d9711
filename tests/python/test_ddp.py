"""Plain DistributedDataParallel: the same parameters everywhere, equal to one process that averages
the gradients itself, and training that goes on without a rank."""

import pytest
from cluster import SOAK, Cluster

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


# Rank 0 ends itself some time after the start of a forward pass, which begins with the broadcast of
# the buffers. `mark` is big enough to die in the middle of, differs between the ranks after each
# step and is equal everywhere after a broadcast.
WITH_BUFFERS = (
    MODEL
    + """
import os, signal, threading
views = []
told = threading.Event()
def on_event(event):
    if event.kind == "view":
        views.append([event.rank, event.reason, event.detail])
        told.set()
papilio.on_event(on_event)

model = make()
model.register_buffer("mark", torch.zeros(1 << 18))
ddp = DistributedDataParallel(model, bucket_cap_mb=0.02)
optimizer = optimizer_of(ddp)
seen = []
def look(module, _):
    seen.append([float(module.mark.min()), float(module.mark.max()), digest(module.buffers())])
model.register_forward_pre_hook(look)

moment = threading.Event()
def end():
    moment.wait()
    until = time.monotonic() + {delay}
    while time.monotonic() < until:
        pass
    os.kill(os.getpid(), signal.SIGKILL)
if rank == 0:
    threading.Thread(target=end, daemon=True).start()

longest = 0.0
losses = []
for step in range(40):
    if step == 20:
        moment.set()
    begin = time.monotonic()
    optimizer.zero_grad()
    loss = loss_of(ddp, rank, step % 10)
    loss.backward()
    optimizer.step()
    model.mark.fill_(1000 * step + rank)
    longest = max(longest, time.monotonic() - begin)
    losses.append(float(loss.detach()))
result = [seen, longest, sum(losses[30:]) < sum(losses[:10]), told.wait(5) and views]
"""
)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("delay", [0, 0.0005, 0.001, 0.004] if SOAK else [0.0005])
def test_buffers_outlive_rank_0(delay):
    with Cluster(4, store_in_rank0=True) as ranks:
        for rank in ranks:
            rank.send("collective", source=WITH_BUFFERS.format(delay=delay))
        ranks[0].wait(60)
        answers = [ranks[rank].receive(timeout=60) for rank in (1, 2, 3)]
        for answer in answers:
            assert answer["ok"], answer
            seen, longest, better, views = answer["result"]
            assert better and longest < 2.0, (longest, better)
            assert seen == answers[0]["result"][0]  # every buffer, at every step
            marks = [low for low, high, _ in seen if low == high]
            assert len(marks) == 40, seen
            # Rank 0's while it lives, then rank 1's.
            roots = [int(mark) % 1000 for mark in marks[1:]]
            assert roots == sorted(roots) and set(roots) == {0, 1}, roots
            assert [int(mark) // 1000 for mark in marks[1:]] == list(range(39))
            # Said once, not at every step.
            assert [view[:2] for view in views] == [[0, "dead"]], views
            assert "rank 1 stands in for rank 0" in views[0][2]
