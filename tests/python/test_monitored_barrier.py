"""monitored_barrier: who is missing is named, on rank 0 and in time; others are told."""

import signal
import time

import pytest
from cluster import Cluster

CALL = """
start = time.monotonic()
try:
    dist.monitored_barrier(timeout=timedelta(seconds={seconds}), wait_all_ranks={every})
    result = ["passed", [], ""]
except papilio.PapilioError as error:
    result = [type(error).__name__, list(error.ranks), str(error)]
result.append(time.monotonic() - start)
"""


def call(seconds: float, every: bool = False) -> str:
    return CALL.format(seconds=seconds, every=every)


@pytest.mark.timeout(60)
def test_everybody_passes_also_with_collectives_before_and_after():
    with Cluster(4) as ranks:
        for every in (False, True):
            for answer in ranks.run("dist.all_reduce(torch.ones(100))\n" + call(20, every)):
                assert answer[0] == "passed"
        assert [a[0] for a in ranks.run("dist.barrier()\n" + call(20))] == ["passed"] * 4


@pytest.mark.timeout(60)
def test_the_first_missing_rank_is_named_and_the_others_are_told():
    with Cluster(4) as ranks:
        answers = ranks.run(call(1), ranks=[0, 2])
        kind, blamed, text, seconds = answers[0]
        assert (kind, blamed) == ("DeadlineExceeded", [1])
        assert "Rank 1 failed to pass monitoredBarrier in 1000 ms" in text
        assert 0.9 < seconds < 5
        kind, blamed, text, _ = answers[1]
        assert (kind, blamed) == ("DeadlineExceeded", [0])
        assert "Rank 2 successfully reached monitoredBarrier" in text
        # One that comes when the barrier is over neither passes nor disturbs the next one.
        assert ranks.run(call(0.2), ranks=[1])[0][0] == "DeadlineExceeded"
        assert ranks.run(call(0.2), ranks=[3])[0][0] == "DeadlineExceeded"
        assert [answer[0] for answer in ranks.run(call(20))] == ["passed"] * 4


@pytest.mark.timeout(60)
def test_all_missing_ranks_are_named_on_request():
    with Cluster(4) as ranks:
        kind, blamed, text, _ = ranks.run(call(0.5, every=True), ranks=[0])[0]
        assert (kind, blamed) == ("DeadlineExceeded", [1, 2, 3])
        assert "Ranks 1, 2, 3 failed to pass monitoredBarrier" in text


@pytest.mark.timeout(60)
def test_a_dead_rank_is_named_long_before_the_timeout():
    with Cluster(3) as ranks:
        ranks[1].signal(signal.SIGKILL)
        start = time.monotonic()
        answers = ranks.run(call(30), ranks=[0, 2])
        assert time.monotonic() - start < 15
        assert answers[0][:2] == ["PeerFailed", [1]]
        assert answers[1][1] == [0] and "Rank 2 successfully reached" in answers[1][2]


@pytest.mark.timeout(60)
def test_no_time_at_all_and_one_rank():
    with Cluster(2) as ranks:
        kind, blamed, text, seconds = ranks.run(call(0), ranks=[0])[0]
        assert kind == "DeadlineExceeded" and "Rank 0 timed out in monitoredBarrier" in text
        assert seconds < 1
    with Cluster(1) as ranks:
        assert ranks.run(call(5))[0][0] == "passed"


GIVEN_UP = """
backend = dist.group.WORLD._get_backend(torch.device("cpu"))
threading.Timer(0.3, backend.abort).start()
"""


@pytest.mark.timeout(60)
def test_an_abort_in_another_thread_ends_it_and_blames_nobody():
    with Cluster(2) as ranks:
        kind, blamed, text, seconds = ranks.run(GIVEN_UP + call(30), ranks=[0])[0]
        assert (kind, blamed) == ("Aborted", []) and seconds < 10
        assert "monitoredBarrier was given up" in text
