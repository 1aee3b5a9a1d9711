"""Two hosts of two ranks each, tensors on a device, ``host_backend="papilio"``: each host adds up
in memory that its ranks share, and a rank that dies or freezes takes no other one's data with it.
"""

import signal
import time

import network
import pytest
from test_hierarchy import contributors
from test_hierarchy_device import LIMIT, NAMES, Devices, require_whole


# None where there are no namespaces; `make chaos` says why.
@pytest.fixture(scope="module", params=[] if network.unavailable() else [2])
def net(request):
    made = network.Network(request.param)
    try:
        yield made
    finally:
        made.close()


class Lanes(Devices):
    def __init__(self, net, options="patience=2.0"):
        super().__init__(net, options, "'papilio'")

    def averages(self) -> list:
        return self.run("import device_under_test as dev; result = dev.averages()")


def test_sums_are_exact_and_made_on_the_device(net):
    with Lanes(net) as ranks:
        calls = [
            "1",
            "2, op='avg'",
            "3, 1_000_003",
            "4, dtype='float64'",
            "5, 100_003, dtype='bfloat16', op='avg'",
        ]
        for call in calls:
            require_whole(ranks.reduced(call))
        assert min(ranks.averages()) >= len(calls) or min(ranks.averages()) == 1
        before = ranks.averages()
        require_whole(ranks.reduced("6, 1000"))  # too small for two levels
        assert ranks.averages() == before
        ranks.require_order()


def test_weights_count_within_a_host(net):
    """Ranks 0 to 3 weigh 1, 3, 1 and 1; tensors are full of rank + 1."""
    with Lanes(net, "weight=3.0 if rank == 1 else 1.0") as ranks:
        text = """
x = torch.full((100_000,), float(rank + 1)).to(dev.NAME)
dist.all_reduce(x, dist.ReduceOp.AVG)
result = x.cpu().unique().tolist()
"""
        wanted = (1 + 3 * 2 + 3 + 4) / 6
        for (got,) in ranks.run(NAMES + text):
            assert got == pytest.approx(wanted, rel=1e-6)


def test_a_rank_with_a_nan_is_left_out_of_its_hosts_sum(net):
    with Lanes(net) as ranks:
        ranks.reduced("1")
        for answer in ranks.reduced("2, spoil=rank == 1"):
            assert contributors(answer["report"]) == {(0, 2, 3)}, answer["report"]
            assert answer["report"]["blamed"] == {"1": "nonfinite"}
        require_whole(ranks.reduced("3"))


def test_another_model_never_counts_in_its_hosts_sum(net):
    options = "patience=2.0, fingerprint='another' if rank == 1 else 'one'"
    with Lanes(net, options) as ranks:
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


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 1])  # who speaks for its host, and who does not
def test_a_dead_or_frozen_rank_costs_itself(net, how, victim):
    with Lanes(net) as ranks:
        require_whole(ranks.reduced("1"))
        ranks[victim].signal(how)
        others = [rank for rank in range(4) if rank != victim]
        begin = time.monotonic()
        for salt in range(2, 10):
            answers = ranks.reduced(str(salt), ranks=others)
            for answer in answers:
                assert set(map(int, answer["report"]["blamed"])) <= {victim}, answer["report"]
        assert time.monotonic() - begin < 10.0
        for answer in answers:
            assert contributors(answer["report"]) == {tuple(others)}
            assert answer["seconds"] < 1.0
        ranks.require_order(others)
