"""Two hosts of two ranks each, tensors on a device: ``host_backend`` adds them up within a host.

The device and the backend are those of tests/process_group/fake_device, or a GPU and Gloo
(DEVICE_UNDER_TEST=cuda). Like NCCL the backend is strict; what happens to the job when it fails or
hangs is the point. Every round is judged by the oracle.
"""

import signal
import time

import network
import pytest
from cluster import Rank, wait_until
from device_ranks import LIMIT, NAMES, OnDevice, contributors, require_whole
from test_hierarchy import Hosts

INIT = """
import device_under_test as dev
dist.init_process_group(
    f"cpu:papilio,{dev.NAME}:papilio",
    timeout=timedelta(seconds=30),
    pg_options=papilio.Options(hierarchy="host", host_backend=%s, %s),
)
"""


# None where there are no namespaces; `make chaos` says why.
@pytest.fixture(scope="module", params=[] if network.unavailable() else [2])
def net(request):
    made = network.Network(request.param)
    try:
        yield made
    finally:
        made.close()


class Devices(OnDevice, Hosts):
    def __init__(self, net, options="patience=2.0", backend="dev.HOST_BACKEND"):
        super().__init__(net, "host", init=False)
        self._begin = INIT % (backend, options)

    def sums(self, rank: int) -> int:
        return self[rank].run("import device_under_test as dev; result = dev.sums()")


def complaints(rank: Rank) -> list:
    return [line for line in rank.errors if "between the ranks of this host failed" in line]


# The strict one, and papilio's own: what holds for both.
BACKENDS = ["dev.HOST_BACKEND", "'papilio'"]


def test_sums_are_exact_and_made_on_the_device(net):
    with Devices(net) as ranks:
        calls = ["1", "2, op='avg'", "3, dtype='float64'", "4, 100_003, dtype='bfloat16', op='avg'"]
        for call in calls:
            require_whole(ranks.reduced(call))
        if ranks.sums(0) != 1:  # counted
            assert [ranks.sums(rank) for rank in range(4)] == [len(calls)] * 4
        require_whole(ranks.reduced("5, 1000"))  # too small for two levels
        assert ranks.sums(0) in (1, len(calls))
        ranks.require_order()
        assert not any(complaints(rank) for rank in ranks.ranks)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_count_within_a_host(net, backend):
    """Ranks 0 to 3 weigh 1, 3, 1 and 1; tensors are full of rank + 1."""
    with Devices(net, "weight=3.0 if rank == 1 else 1.0", backend) as ranks:
        text = """
x = torch.full((100_000,), float(rank + 1)).to(dev.NAME)
dist.all_reduce(x, dist.ReduceOp.AVG)
result = x.cpu().unique().tolist()
"""
        wanted = (1 + 3 * 2 + 3 + 4) / 6
        for (got,) in ranks.run(NAMES + text):
            assert got == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rank_with_a_nan_is_left_out_of_its_hosts_sum(net, backend):
    with Devices(net, backend=backend) as ranks:
        ranks.reduced("1")
        answers = ranks.run(NAMES + "result = reduced(2, spoil=rank == 1)", timeout=LIMIT)
        for rank, answer in enumerate(answers):
            assert contributors(answer["report"]) == {(0, 2, 3)}, answer["report"]
            assert answer["report"]["blamed"] == {"1": "nonfinite"}
            assert answer["wrong"] == 0, (rank, answer)
        require_whole(ranks.reduced("3"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_model_never_counts_in_its_hosts_sum(net, backend):
    options = "patience=2.0, fingerprint='another' if rank == 1 else 'one'"
    with Devices(net, options, backend) as ranks:
        text = """
try:
    result = [reduced(salt) for salt in range(3)]
except papilio.SchemaMismatch as error:
    result = str(error)
"""
        answers = ranks.run(NAMES + text, timeout=LIMIT)
        assert isinstance(answers[1], str), answers[1]  # SchemaMismatch
        for rank in (0, 2, 3):
            for answer in answers[rank]:
                assert answer["wrong"] == 0, answer
                assert all(1 not in members for members in contributors(answer["report"]))
        assert contributors(answers[0][-1]["report"]) == {(0, 2, 3)}
        assert set(answers[0][0]["report"]["blamed"]) == {"1"}


def test_a_device_that_is_busy_is_not_a_backend_that_hangs(net):
    """The gradients take longer than a sum may, on all ranks."""
    with Devices(net) as ranks:
        require_whole(ranks.reduced("1"))
        before = ranks.sums(0)
        require_whole(ranks.reduced("2, busy=1.6"))  # limit of a sum: 1 s
        assert not any(complaints(rank) for rank in ranks.ranks)
        if before != 1 or ranks.sums(0) != 1:
            assert ranks.sums(0) == before + 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_frozen_rank_costs_itself_and_no_host(net, how):
    with Devices(net) as ranks:
        require_whole(ranks.reduced("1"))
        before = ranks.sums(0)
        ranks[1].signal(how)
        begin = time.monotonic()
        for salt in range(2, 8):
            answers = ranks.reduced(str(salt), ranks=[0, 2, 3])
            for answer in answers:
                assert set(map(int, answer["report"]["blamed"])) <= {1}, answer["report"]
        assert time.monotonic() - begin < 10.0
        for answer in answers:
            assert contributors(answer["report"]) == {(0, 2, 3)}
            assert answer["seconds"] < 1.0
        (said,) = complaints(ranks[0])  # once, by whom it concerns
        assert "rank 0" in said and "until the next change of members" in said
        assert not complaints(ranks[2]) and not complaints(ranks[3])
        if before != 1 or ranks.sums(2) != 1:
            assert ranks.sums(2) == 7  # the other host still adds up on its device
        ranks.require_order([0, 2, 3])


BAD = {
    "unknown": ("hierarchy='host', host_backend='ncll'", "not a backend that torch.distributed"),
    "flat": ("hierarchy='off', host_backend='gloo'", "needs hierarchy='host'"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_backend_that_can_not_be_is_refused_at_init(net, what):
    options, named = BAD[what]
    text = f"""
try:
    dist.init_process_group("papilio", pg_options=papilio.Options({options}))
except ValueError as error:
    result = str(error)
"""
    with Hosts(net, "host", init=False) as ranks:
        assert named in ranks[0].run(text)


def test_all_ranks_must_name_the_same_backend(net):
    with Hosts(net, "host", init=False) as ranks:
        for rank in ranks:
            backend = "gloo" if rank.rank == 3 else ""
            rank.send("init", options={"hierarchy": "host", "host_backend": backend})
        for rank in ranks:
            answer = rank.receive()
            assert not answer["ok"] and "host_backend='gloo'" in answer["text"], answer


# Its gradient is above what two levels are for; the same on all ranks, so that sums are exact.
TRAIN = """
store = dist.distributed_c10d._get_default_store()._underlying_non_prefix_store
model = torch.nn.Linear(20_000, 1, bias=False).to(dev.NAME)
with torch.no_grad(): model.weight.zero_()
optimizer = torch.optim.SGD(model.parameters(), lr=1.0, foreach=False)
job = papilio.attach(model, optimizer)
while not (store.check(["stop"]) and job.step >= int(store.get("stop"))):
    gradient = torch.full((20_000,), float(job.step % 7 + 6)).to(dev.NAME)
    dist.all_reduce(gradient, dist.ReduceOp.AVG)
    model.weight.grad = gradient.view(1, -1)
    optimizer.step()
    store.set(f"at/{rank}", f"{job.step} {int(job.joined)} {dev.sums()}")
result = [job.step, model.weight.detach().cpu().unique().tolist()]
"""


def test_a_new_view_makes_the_backend_anew(net):
    """Rank 1 is killed: rank 0 goes on without the backend. It comes back: they have one again."""
    with Devices(net) as ranks:

        def at(rank):
            key = f"at/{rank}"
            return (
                [int(x) for x in ranks.switch_store.get(key).split()]
                if ranks.switch_store.check([key])
                else [0, 0, 0]
            )

        for rank in ranks:
            rank.send("collective", source=NAMES + TRAIN)
        wait_until(lambda: at(0)[0] >= 5, what="step 5")
        ranks[1].kill()
        ranks.switch_store.delete_key("at/1")
        ranks.begin_again(1)
        ranks[1].send("collective", source=NAMES + TRAIN)
        wait_until(lambda: at(1)[1], 60, "rank 1 joined")
        before = at(0)[2]
        wait_until(lambda: at(1)[2] >= 3 and (at(0)[2] > before or before == 1), what="sums again")
        last = max(at(rank)[0] for rank in range(4)) + 10
        ranks.switch_store.set("stop", str(last))
        answers = [rank.receive() for rank in ranks]
        for answer in answers:
            assert answer["ok"], answer["trace"]
        wanted = -float(sum(step % 7 + 6 for step in range(last)))
        assert [answer["result"] for answer in answers] == [[last, [wanted]]] * 4
        ranks.require_order([0, 2, 3])
