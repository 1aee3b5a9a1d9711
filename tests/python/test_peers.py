"""``papilio.peers()`` against what was done to a rank: how far behind it is, by all clocks."""

import pytest
from cluster import Cluster

NEAR = 0.15  # of the truth

STEPS = """
for k in range({steps}):
    time.sleep({compute} + ({extra} if rank == 2 else 0))
    dist.all_reduce(torch.ones({numel}))
result = {{p.rank: p.lag for p in papilio.peers()}}
"""


@pytest.mark.timeout(90)
@pytest.mark.parametrize("numel", [1000, 1 << 20])
def test_a_compute_straggler_that_is_waited_for(numel):
    extra = 0.2
    with Cluster(4) as ranks:
        seen = ranks.run(STEPS.format(steps=16, compute=0.02, extra=extra, numel=numel))
    for rank, lags in enumerate(seen):  # rank 2 knows it too
        assert lags["2"] == pytest.approx(extra, rel=NEAR), (rank, lags)
        for other in {"0", "1", "3"} - {str(rank)}:
            assert lags[other] < extra * NEAR, (rank, lags)


@pytest.mark.timeout(90)
def test_a_compute_straggler_that_is_not_waited_for():
    """Left out and blacklisted it falls behind further and further; per step it is the same."""
    extra = 0.4
    with Cluster(4, patience=0.1) as ranks:
        source = STEPS.format(steps=24, compute=0.05, extra=extra, numel=1 << 16)
        for rank in ranks:
            rank.send("collective", source=source)
        for rank in (0, 1, 3):
            assert ranks[rank].receive()["ok"]
        assert ranks[2].receive()["ok"]  # many steps later, when all of its data has arrived
        for rank in (0, 1, 3):
            entries = ranks[rank].call(
                "collective",
                source="result = [{p.rank: p.lag for p in papilio.peers()},"
                " [e.rank for e in papilio.blacklist()]]",
            )["result"]
            lags, blacklisted = entries
            assert blacklisted in ([2], []), "its term may be over"
            assert lags["2"] == pytest.approx(extra, rel=NEAR), (rank, lags)
