"""Collectives on tensors of a device: values, order of the streams, lifetime, failures.

The device has no hardware (tests/process_group/fake_device): its streams are threads that take
their time, its memory is poisoned when it is released, and it notes every two uses of the same
memory that are ordered by luck only. `fill` is a kernel that has not run when it returns.
"""

import pytest
from cluster import Cluster, Rank, wait_until

INIT = """
import device_under_test as dev
dist.init_process_group(
    f"cpu:papilio,{dev.NAME}:papilio",
    timeout=timedelta(seconds=30),
    pg_options=papilio.Options(patience=1.0),
)
"""

# Names that the texts below use; every rank's value for a salt is an integer.
NAMES = """
import device_under_test as dev
def filled(value, numel=100, dtype=torch.float32):
    out = torch.empty(numel, dtype=dtype, device=dev.NAME)
    dev.fill_later(out, float(value))
    return out
def empty(numel=100):
    return torch.empty(numel, device=dev.NAME)
def seen(*tensors):
    later = [dev.read_later(tensor) for tensor in tensors]  # kernels behind the wait
    dev.synchronize()
    values = [sorted(set(x.flatten().tolist())) for x in later]
    return values[0] if len(values) == 1 else values
"""


class Devices(Cluster):
    """Ranks whose group has CPU tensors and those of the fake device."""

    def __init__(self, n, begin=INIT):
        super().__init__(n, init=False)
        self.begin = begin

    def start(self):
        self.run(self.begin)

    def __enter__(self):
        self.start()
        return self

    def begin_again(self, rank):
        """A new process in the place of one that has ended, which comes back into the group."""
        self.ranks[rank].end()
        self.ranks[rank] = Rank(rank, self._environments[rank] | {"PAPILIO_REJOIN": "1"})
        self.ranks[rank].run(self.begin)

    def say(self, source, ranks=None, timeout=60):
        return self.run(NAMES + source, ranks=ranks, timeout=timeout)

    def require_order(self, ranks=None):
        """Nothing happened in its order by luck; and something happened."""
        for races, uses in self.say("result = [dev.races(), dev.uses()]", ranks):
            assert races == [] and uses > 0


COLLECTIVES = {
    "all_reduce": ("x = filled(rank + 1); dist.all_reduce(x); result = seen(x)", [[6.0]] * 3),
    "all_reduce avg": (
        "x = filled(rank + 1); dist.all_reduce(x, dist.ReduceOp.AVG); result = seen(x)",
        [[2.0]] * 3,
    ),
    "all_reduce max": (
        "x = filled(rank + 1); dist.all_reduce(x, dist.ReduceOp.MAX); result = seen(x)",
        [[3.0]] * 3,
    ),
    "all_reduce of integers, large": (
        "x = filled(rank + 1, 300_000, torch.int64); dist.all_reduce(x); result = seen(x)",
        [[6]] * 3,
    ),
    "broadcast": ("x = filled(rank + 1); dist.broadcast(x, 1); result = seen(x)", [[2.0]] * 3),
    "all_gather": (
        "x = filled(rank + 1); out = [empty() for _ in range(n)]; dist.all_gather(out, x);"
        " result = seen(*out)",
        [[[1.0], [2.0], [3.0]]] * 3,
    ),
    "all_gather_single": (
        "x = filled(rank + 1); out = empty(300); dist.all_gather_into_tensor(out, x);"
        " result = seen(*out.chunk(3))",
        [[[1.0], [2.0], [3.0]]] * 3,
    ),
    "all_gather in place": (
        "out = empty(300); x = out[100 * rank : 100 * rank + 100]; dev.fill_later(x, rank + 1.0);"
        " dist.all_gather_into_tensor(out, x); result = seen(*out.chunk(3))",
        [[[1.0], [2.0], [3.0]]] * 3,
    ),
    "gather": (
        "x = filled(rank + 1); out = [empty() for _ in range(n)] if rank == 2 else None;"
        " dist.gather(x, out, dst=2); result = seen(*out) if out else []",
        [[], [], [[1.0], [2.0], [3.0]]],
    ),
    "scatter": (
        "x = empty(); into = [filled(10 + r) for r in range(n)] if rank == 0 else None;"
        " dist.scatter(x, into, src=0); result = seen(x)",
        [[10.0], [11.0], [12.0]],
    ),
    "reduce": ("x = filled(rank + 1); dist.reduce(x, 0); result = seen(x)", [[6.0], [2.0], [3.0]]),
    "reduce_scatter": (
        "into = [filled(10 * r + rank) for r in range(n)]; x = empty();"
        " dist.reduce_scatter(x, into); result = seen(x)",
        [[3.0], [33.0], [63.0]],
    ),
    "reduce_scatter_single": (
        "x = filled(rank + 1, 300); out = empty(); dist.reduce_scatter_tensor(out, x);"
        " result = seen(out)",
        [[6.0]] * 3,
    ),
    "all_to_all": (
        "into = [filled(10 * rank + r) for r in range(n)]; out = [empty() for _ in range(n)];"
        " dist.all_to_all(out, into); result = seen(*out)",
        [[[float(10 * r + me)] for r in range(3)] for me in range(3)],
    ),
    "all_to_all_single": (
        "x = filled(rank + 1, 300); out = empty(300); dist.all_to_all_single(out, x);"
        " result = seen(*out.chunk(3))",
        [[[1.0], [2.0], [3.0]]] * 3,
    ),
    "send and recv": (
        "x = filled(rank + 1)\n"
        "if rank == 0: dist.send(x, 2)\n"
        "if rank == 1: dist.send(x, 2, tag=7)\n"
        "if rank == 2:\n"
        "    y = empty(); source = dist.recv(x, tag=7); dist.recv(y, 0)\n"
        "    assert source == 1; result = seen(x, y)\n",
        [None, None, [[2.0], [1.0]]],
    ),
    "several at once": (
        "xs = [filled(rank + k) for k in range(3)]; dist.all_reduce_coalesced(xs);"
        " result = seen(*xs)",
        [[[3.0], [6.0], [9.0]]] * 3,
    ),
    "objects": (
        "out = [None] * n; dist.all_gather_object(out, f'rank {rank}'); result = out",
        [["rank 0", "rank 1", "rank 2"]] * 3,
    ),
    "nothing": ("x = empty(0); dist.all_reduce(x); result = x.numel()", [0] * 3),
}


@pytest.fixture(scope="module")
def three():
    with Devices(3) as ranks:
        yield ranks


@pytest.mark.parametrize("what", COLLECTIVES)
def test_every_collective(three, what):
    source, wanted = COLLECTIVES[what]
    assert three.say(source) == wanted
    three.require_order()


def test_sparse(three):
    source = """
indices = torch.tensor([[rank, 3]])
x = torch.sparse_coo_tensor(indices, torch.tensor([1.0, 2.0]), (4,))
dist.all_reduce(x)
result = x.to_dense().tolist()
"""
    assert three.say(source) == [[1.0, 1.0, 1.0, 6.0]] * 3


def test_wait_holds_the_stream_and_not_the_caller(three):
    issue = """
gate = dev.hold() if rank == 0 else None  # what the gradients come from takes long
x = filled(rank + 1)
work = dist.all_reduce(x, async_op=True)
work.wait()
before = [work.is_completed(), dev.idle()]
if gate: gate.open()
values = seen(x)
result = [values, work.is_completed(), before if rank == 0 else None]
"""
    first, *others = three.say(issue)
    assert first == [[6.0], True, [False, False]], "it had returned with the kernel still held"
    assert others == [[[6.0], True, None]] * 2
    three.require_order()


def test_a_collective_on_the_cpu_does_not_pass_one_that_waits_for_the_device(three):
    issue = """
gate = dev.hold() if rank == 1 else None
x, y = filled(rank + 1), torch.full((100,), float(10 * rank))
works = [dist.all_reduce(x, async_op=True), dist.all_reduce(y, async_op=True)]
if gate: gate.open()
for work in works: work.wait()
result = [seen(x), y.unique().tolist()]
"""
    assert three.say(issue) == [[[6.0], [30.0]]] * 3


def test_what_ends_early_passes_what_was_issued_before_it(three):
    """recv is issued first, and what it receives is sent only after the all_reduce behind it."""
    source = """
x, y = filled(rank + 1), empty()
first = dist.irecv(y, 1) if rank == 0 else None
work = dist.all_reduce(x, async_op=True)
work.wait()
total = seen(x)
if rank == 1: dist.send(x, 0)
if first: first.wait()
result = [total, seen(y) if rank == 0 else None]
"""
    assert three.say(source) == [[[6.0], [6.0]], [[6.0], None], [[6.0], None]]
    three.require_order()


def test_another_stream_waits_only_where_it_is_told_to(three):
    source = """
with dev.Stream():
    x = filled(rank + 1)
    work = dist.all_reduce(x, async_op=True)
    work.wait()
    result = seen(x)
"""
    assert three.say(source) == [[6.0]] * 3
    three.require_order()


def test_tensors_and_work_may_be_dropped_at_once(three):
    source = """
for k in range(50):
    dist.all_reduce(filled(k, 5000), async_op=True)
x = filled(rank + 1)
dist.all_reduce(x)
result = seen(x)
"""
    assert three.say(source) == [[6.0]] * 3
    three.require_order()


def test_future_and_its_callbacks(three):
    source = """
x = filled(rank + 1)
future = dist.all_reduce(x, async_op=True).get_future()
twice = future.then(lambda f: f.value()[0] * 2)
result = [seen(twice.wait()), seen(x)]
"""
    assert three.say(source) == [[[12.0], [6.0]]] * 3
    three.require_order()


def test_reports_are_the_same_as_on_the_cpu(three):
    source = """
x = filled(rank + 1)
work = dist.all_reduce(x, async_op=True)
work.wait(timedelta(seconds=20))
report = papilio.report(work)
result = [report.outcome, report.numel, [list(c.contributors) for c in report.chunks]]
"""
    for outcome, numel, contributors in three.say(source):
        assert (outcome, numel) == ("complete", 100)
        assert set(map(tuple, contributors)) == {(0, 1, 2)}


BAD = {
    "two places": ("dist.all_gather([torch.empty(100) for _ in range(n)], filled(1))", "on cpu"),
    "not contiguous": ("dist.all_reduce(filled(1)[::2])", "contiguous"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_tensors_are_refused_before_anything_is_sent(three, what):
    call, named = BAD[what]
    source = f"""
try:
    {call}
except (ValueError, RuntimeError) as error:
    result = str(error)
"""
    for text in three.say(source):
        assert named in text
    assert three.say("x = filled(rank); dist.all_reduce(x); result = seen(x)") == [[3.0]] * 3


def test_a_graph_that_is_captured_is_refused(three):
    source = """
dev.set_capturing(True)
try:
    dist.all_reduce(filled(1))
except NotImplementedError as error:
    result = str(error)
finally:
    dev.set_capturing(False)
"""
    for text in three.say(source):
        assert "captured in a graph" in text and "issue it outside" in text


def test_ddp_trains_alike_on_all_ranks():
    source = """
torch.manual_seed(1)
model = torch.nn.Linear(50, 4).to(dev.NAME)
ddp = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
torch.manual_seed(100 + rank)
for step in range(5):
    optimizer.zero_grad()
    ddp(torch.randn(8, 50).to(dev.NAME)).square().sum().backward()
    optimizer.step()
result = [p.detach().cpu().double().sum().item() for p in model.parameters()]
"""
    with Devices(2) as ranks:
        first, second = ranks.say(source)
        assert first == second
        ranks.require_order()


def test_a_group_that_is_bound_to_the_device_and_its_parts():
    init = INIT.replace("timeout=", "device_id=torch.device(dev.NAME, 0), timeout=")
    source = """
part = dist.new_group([0, 1])
x = filled(rank + 1)
if rank < 2: dist.all_reduce(x, group=part)
y = filled(rank + 1)
dist.all_reduce(y)
dist.barrier()
result = [seen(x), seen(y)]
"""
    with Devices(3, init) as ranks:
        assert ranks.say(source) == [[[3.0], [6.0]], [[3.0], [6.0]], [[3.0], [6.0]]]
        ranks.require_order()


def test_a_killed_rank_is_left_out_of_the_average():
    with Devices(3) as ranks:
        ranks.say("x = filled(rank); dist.all_reduce(x); result = seen(x)")
        ranks[1].kill()
        source = """
reports = []
for k in range(4):
    x = filled(rank + 1 + k)
    work = dist.all_reduce(x, async_op=True)
    work.wait(timedelta(seconds=20))
    members = {c.contributors for c in papilio.report(work).chunks}
    wanted = {3 * sum(r + 1 + k for r in m) / len(m) for m in members}
    assert set(seen(x)) == wanted, (seen(x), wanted)
    reports.append(sorted(members))
result = reports[-1]
"""
        assert ranks.say(source, ranks=[0, 2]) == [[[0, 2]], [[0, 2]]]
        ranks.require_order(ranks=[0, 2])


# Rank 0 receives what rank 1 never sends; its stream waits when it says so to the parent.
WAITS = """
y = torch.full((100,), 5.0).to(dev.NAME)
into = dist.irecv(y, 1)
into.wait()
print("{}", flush=True)
received = seen(y)
"""


def after_the_death_of_the_sender(source: str):
    with Devices(2) as ranks:
        ranks.say("x = filled(rank); dist.all_reduce(x); result = seen(x)")
        ranks[0].send("collective", source=NAMES + WAITS + source)
        assert ranks[0].receive() == {}
        ranks[1].kill()
        answer = ranks[0].receive()
        assert answer["ok"], answer["trace"]
        ranks.require_order(ranks=[0])
        return answer["result"]


def test_a_failure_after_wait_is_told_by_the_next_collective():
    source = """
try:
    dist.all_reduce(filled(1))
    told = None
except papilio.PeerFailed as error:
    told = [list(error.ranks), error.op]
x = filled(3)
dist.all_reduce(x)  # told once
result = [received, told, seen(x)]
"""
    assert after_the_death_of_the_sender(source) == [[0.0], [[1], "recv"], [6.0]]


def test_a_failure_that_was_asked_for_is_not_told_again():
    source = """
kind = type(into.exception()).__name__
x = filled(3)
dist.all_reduce(x)
result = [received, kind, seen(x)]
"""
    assert after_the_death_of_the_sender(source) == [[0.0], "PeerFailed", [6.0]]


def test_what_fails_at_once_is_told_by_wait():
    with Devices(2) as ranks:
        ranks.say("x = filled(rank); dist.all_reduce(x); result = seen(x)")
        ranks[1].kill()
        source = """
x = torch.full((100,), 5.0).to(dev.NAME)
try:
    dist.send(x, 1)
    dist.irecv(x, 1).wait(timedelta(seconds=20))
    told = None
except papilio.PeerFailed as error:
    told = list(error.ranks)
result = told
"""
        assert ranks.say(source, ranks=[0]) == [[1]]


TRAIN = """
store = dist.distributed_c10d._get_default_store()._underlying_non_prefix_store
model = torch.nn.Linear(40, 1, bias=False).to(dev.NAME)
with torch.no_grad(): model.weight.zero_()
optimizer = torch.optim.SGD(model.parameters(), lr=1.0, foreach=False)
job = papilio.attach(model, optimizer)
while not (store.check(["stop"]) and job.step >= int(store.get("stop"))):
    gradient = filled(job.step % 7 + 6, 40)  # the same on all ranks
    dist.all_reduce(gradient, dist.ReduceOp.AVG)
    model.weight.grad = gradient.view(1, 40)
    optimizer.step()
    store.set(f"at/{rank}", f"{job.step} {int(job.joined)}")
result = [job.step, seen(model.weight.detach()), job.states_received]
"""


def test_a_restarted_rank_gets_its_state_from_tensors_on_the_device():
    with Devices(3) as ranks:

        def at(rank):
            key = f"at/{rank}"
            return (
                [int(x) for x in ranks.store.get(key).split()]
                if ranks.store.check([key])
                else [0, 0]
            )

        for rank in ranks:
            rank.send("collective", source=NAMES + TRAIN)
        wait_until(lambda: at(0)[0] >= 5, what="step 5")
        ranks[2].kill()
        ranks.store.delete_key("at/2")
        ranks.begin_again(2)
        ranks[2].send("collective", source=NAMES + TRAIN)
        wait_until(lambda: at(2)[1], 60, "rank 2 joined")
        last = max(at(rank)[0] for rank in range(3)) + 10
        ranks.store.set("stop", str(last))
        answers = [rank.receive() for rank in ranks]
        for answer in answers:
            assert answer["ok"], answer["trace"]
        wanted = -float(sum(step % 7 + 6 for step in range(last)))
        results = [answer["result"] for answer in answers]
        assert [result[:2] for result in results] == [[last, [wanted]]] * 3
        assert results[2][2] == 1
        ranks.require_order()


def test_abort_lets_the_streams_go():
    with Devices(2) as ranks:
        ranks.say("x = filled(rank); dist.all_reduce(x); result = seen(x)")
        source = """
x = filled(7)
work = dist.all_reduce(x, async_op=True)  # rank 1 never comes
work.wait()
stuck = not dev.idle()
dist.distributed_c10d._get_default_group()._get_backend(torch.device(dev.NAME)).abort()
result = [stuck, seen(x)]
"""
        assert ranks.say(source, ranks=[0]) == [[True, [7.0]]]
        ranks.require_order(ranks=[0])


def test_the_group_can_be_destroyed_while_the_device_is_busy():
    with Devices(2) as ranks:
        source = """
gate = dev.hold()
x = filled(7)
work = dist.all_reduce(x, async_op=True)
threading.Timer(0.2, gate.open).start()
dist.destroy_process_group()
ended = work.exception() is not None or work.is_completed()
try:
    work.wait()
except dist.DistBackendError as error:
    assert type(error).__name__ == "Aborted", error
result = [ended, seen(x)]
"""
        for ended, values in ranks.say(source):
            assert ended and values in ([7.0], [14.0])
        ranks.require_order()
