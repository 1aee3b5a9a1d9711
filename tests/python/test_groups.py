"""Work and groups: several collectives in flight, groups from two threads, subgroups, futures."""

import pytest
from cluster import Cluster, wait_until

IN_FLIGHT = """
works, tensors = [], []
for k in range(40):
    tensor = torch.full((1000 + k * 977,), float(rank + k))
    tensors.append(tensor)
    works.append(dist.all_reduce(tensor, async_op=True))
    if k % 7 == 0:
        works.append(dist.barrier(async_op=True))
for work in reversed(works):
    work.wait()
right = [float(t.min()) == float(t.max()) == 6 + 4 * k for k, t in enumerate(tensors)]
result = all(right)
"""

TWO_THREADS = """
groups = [dist.new_group(list(range(n))), dist.new_group(list(range(n)))]
wrong = []

def train(group, factor):
    for k in range(60):
        tensor = torch.full((20000,), float(factor * (rank + k)))
        dist.all_reduce(tensor, group=group)
        if float(tensor.min()) != factor * (sum(range(n)) + n * k) or tensor.min() != tensor.max():
            wrong.append([factor, k, float(tensor.min())])

threads = [threading.Thread(target=train, args=(g, f)) for g, f in zip(groups, (1, 100))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
reports = [papilio.reports(group, last=200) for group in groups]
result = [wrong, [[len(r), {x.outcome for x in r} == {"complete"}, r[-1].seq] for r in reports]]
"""

SUBGROUPS = """
even, odd = dist.new_group([0, 2]), dist.new_group([1, 3])
mine = even if rank % 2 == 0 else odd
tensor = torch.full((100,), float(rank))
dist.all_reduce(tensor, group=mine)
source = torch.tensor([rank])
dist.broadcast(source, src=rank % 2, group=mine)  # a rank of the world
dist.barrier(group=mine)
world = torch.ones(100)
dist.all_reduce(world)
dist.destroy_process_group(mine)
again = torch.ones(100)
dist.all_reduce(again)
result = [float(tensor[0]), int(source), float(world[0]), float(again[0])]
"""

FUTURE = """
tensor = torch.full((100,), float(rank))
work = dist.all_reduce(tensor, async_op=True)
doubled = work.get_future().then(lambda future: future.value()[0] * 2)
first = float(doubled.wait()[0])
inside = work.get_future().wait()
finished = work.get_future_result().wait()
result = [first, inside[0] is tensor or torch.equal(inside[0], tensor), work.is_completed(),
          work.is_success(), len(work.result()), torch.equal(work.result()[0], tensor),
          finished == int(torch._C._distributed_c10d.WorkResult.SUCCESS)]
"""

DROPPED = """
import gc
for k in range(50):
    dist.all_reduce(torch.ones(200000), async_op=True)  # nobody keeps tensor or work
    gc.collect() if k % 10 == 0 else None
last = torch.ones(16)
dist.all_reduce(last)
result = float(last[0])
"""

TIMEOUT = """
work = dist.all_reduce(torch.ones(1000), async_op=True)
begin = time.monotonic()
try:
    work.wait(timedelta(seconds=0.5))
    result = "no error"
except papilio.DeadlineExceeded as error:
    seconds = time.monotonic() - begin
    status = work.get_future_result().wait()
    timeout = int(torch._C._distributed_c10d.WorkResult.TIMEOUT)
    text = str(error)
    result = [0.4 < seconds < 3, work.is_completed(), status == timeout,
              "timed out" in text.lower() and "before timing out" in text, error.seq, text]
"""


@pytest.fixture(scope="module")
def ranks():
    with Cluster(4) as cluster:
        yield cluster


@pytest.mark.timeout(60)
def test_many_in_flight(ranks):
    assert ranks.run(IN_FLIGHT) == [True] * 4


@pytest.mark.timeout(60)
def test_two_groups_from_two_threads(ranks):
    for wrong, reports in ranks.run(TWO_THREADS):
        assert wrong == []
        assert reports == [[60, True, 60]] * 2


@pytest.mark.timeout(60)
def test_subgroups(ranks):
    for rank, answer in enumerate(ranks.run(SUBGROUPS)):
        assert answer == [2.0 if rank % 2 == 0 else 4.0, rank % 2, 4.0, 4.0]


@pytest.mark.timeout(60)
def test_future_then_and_result(ranks):
    assert ranks.run(FUTURE) == [[12.0, True, True, True, 1, True, True]] * 4


@pytest.mark.timeout(60)
def test_dropped_works_complete(ranks):
    before = ranks[0].run("result = papilio.stats()['rounds']['complete']")
    for value in ranks.run(DROPPED):
        assert value == 4.0  # small ones may overtake large ones
    wait_until(
        lambda: ranks[0].run("result = papilio.stats()['rounds']['complete']") == before + 51,
        what="the end of all dropped works",
    )


@pytest.mark.timeout(60)
def test_wait_with_timeout():
    with Cluster(2) as ranks:
        ranks.run("dist.barrier()")
        answer = ranks[0].run(TIMEOUT)
        assert answer[:4] == [True, True, True, True], answer
        assert answer[4] == 2 and "rank 0/2" in answer[5], answer


@pytest.mark.timeout(60)
def test_exception_of_a_failed_work():
    source = """
work = dist.all_gather_into_tensor(torch.zeros(2000), torch.ones(1000), async_op=True)
errors = []
for attempt in (work.wait, work.get_future().wait):
    try:
        attempt()
    except Exception as error:
        errors.append([type(error).__name__, "rank 1" in str(error)])
result = [errors, work.is_completed(), work.is_success(), work.exception() is not None]
"""
    with Cluster(2) as ranks:
        ranks.run("dist.barrier()")
        ranks[1].kill()
        errors, completed, success, has_exception = ranks[0].run(source)
        assert errors[0] == ["PeerFailed", True] and errors[1][1], errors
        assert completed and not success and has_exception
