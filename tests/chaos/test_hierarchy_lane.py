"""Two hosts of two ranks each, tensors on a device, ``host_backend="papilio"``: each host adds up
in memory that its ranks share, and a rank that dies or freezes takes no other one's data with it.
"""

import signal
import time

import network
import pytest
from device_ranks import contributors, require_whole
from test_hierarchy_device import Devices


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
        before = ranks.averages()
        if before != [1] * 4:  # counted: a copy and an average each, at least
            assert min(before) >= 2 * len(calls)
        require_whole(ranks.reduced("6, 1000"))  # too small for two levels
        assert ranks.averages() == before
        ranks.require_order()


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
