"""Works under ``wait()``: whoever waits finishes them itself, and nothing is lost over it."""

import pytest
from cluster import Cluster

pytestmark = pytest.mark.usefixtures("lane")


@pytest.mark.timeout(60)
def test_futures_of_works_that_were_waited_for():
    source = """
import threading
waited = []
for k in range(200):
    work = dist.all_reduce(torch.ones(100), async_op=True)
    threads = [threading.Thread(target=work.wait) for _ in range(k % 3)]
    for thread in threads:
        thread.start()
    work.wait()
    waited.append(work)
    for thread in threads:
        thread.join()
# Taken after the wait: whoever waited has completed them, or is about to.
values = [work.get_future().wait()[0].sum().item() for work in waited]
results = [work.get_future_result().wait() for work in waited]
dist.group.WORLD._wait_for_pending_works()
result = [set(values) == {300.0}, {int(r) for r in results} == {0}]
"""
    with Cluster(3) as ranks:
        for answer in ranks.run(source):
            assert answer == [True, True]


@pytest.mark.timeout(60)
def test_a_wait_that_ends_as_the_work_does():
    """Explicit timeouts of about the time that a call takes: either way every work is closed."""
    source = """
outcomes = {"done": 0, "late": 0}
begin = time.monotonic()
for k in range(300):
    work = dist.barrier(async_op=True)
    try:
        work.wait(timeout=timedelta(milliseconds=1 + k % 3))
        outcomes["done"] += 1
    except (papilio.DeadlineExceeded, papilio.PeerFailed):
        outcomes["late"] += 1
dist.group.WORLD._wait_for_pending_works()
result = [outcomes, time.monotonic() - begin]
"""
    with Cluster(2) as ranks:
        for outcomes, seconds in ranks.run(source):
            assert outcomes["done"] + outcomes["late"] == 300 and outcomes["done"] > 0
            assert seconds < 30
