"""Hooks, temporary timeouts, errors of a group, sequence numbers."""

import pytest
from cluster import Cluster

SEQUENCE = """
from torch.distributed.distributed_c10d import _coalescing_manager
pg = dist.group.WORLD
backend = pg._get_backend(torch.device("cpu"))
seen = []
def counts(call):
    before = backend._get_sequence_number_for_group()
    work = call()
    if work is not None:
        work.wait()
    seen.append(backend._get_sequence_number_for_group() - before)
    return work
def block():
    pg._start_coalescing(torch.device("cpu"))
    dist.broadcast(torch.ones(3), 0, async_op=True)
    pg.allreduce_coalesced([torch.ones(3), torch.ones(30)], dist.AllreduceCoalescedOptions())
    dist.barrier(async_op=True)
    return pg._end_coalescing(torch.device("cpu"))
def message():
    if rank < 2:
        other = torch.zeros(2)
        return (dist.isend if rank == 0 else dist.irecv)(other, 1 - rank)
def fast_path():
    with _coalescing_manager(async_ops=True) as manager:
        for size in (2, 3, 4):
            dist.all_reduce(torch.ones(size))
    return manager
two = lambda factor=1: [torch.ones(2 * factor), torch.ones(3 * factor)]
counts(lambda: dist.all_reduce(torch.ones(20), async_op=True))
counts(lambda: pg.allreduce_coalesced(two(), dist.AllreduceCoalescedOptions()))
counts(lambda: pg.all_gather_single_coalesced(two(n), two()))
counts(lambda: dist.all_gather_coalesced([two() for _ in range(n)], two(), async_op=True))
counts(lambda: pg.reduce_scatter_single_coalesced(two(), two(n)))
counts(lambda: dist.all_reduce(torch.eye(3).to_sparse()))
counts(block)
counts(fast_path)
counts(message)
work = counts(lambda: dist.all_reduce(torch.ones(20), async_op=True))
numbers = [backend._get_sequence_number_for_group(), papilio.report(work).seq]
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
    pg.allreduce_coalesced(two(), dist.AllreduceCoalescedOptions()).wait()
    dist.broadcast(torch.ones(3), 0)
titles = {e.key: e.count for e in profile.key_averages() if e.key.startswith("papilio:")}
result = [seen, numbers, titles]
"""


@pytest.fixture(scope="module")
def ranks():
    with Cluster(3) as cluster:
        yield cluster


@pytest.mark.timeout(60)
def test_a_coalesced_call_has_one_sequence_number():
    with Cluster(3) as fresh:
        for seen, numbers, titles in fresh.run(SEQUENCE):
            assert seen == [1, 1, 1, 1, 1, 1, 1, 1, 0, 1]
            # Rounds are numbered apart: every part of a coalesced call is one.
            assert numbers == [9, 1 + 2 + 2 + 2 + 2 + 2 + 4 + 3 + 1]
            assert titles == {"papilio:all_reduce": 2, "papilio:broadcast": 1}


COMPLETION = """
pg = dist.new_group(list(range(n)))
backend = pg._get_backend(torch.device("cpu"))
infos = []
def hook(info):
    infos.append([str(info.op_type).split(".")[-1], info.seq,
                  info.active_duration.total_seconds() >= 0,
                  info.time_finished >= info.time_started])
    if info.seq == 2:
        raise ValueError("the hook's own mistake")
pg._register_on_completion_hook(hook)
try:
    pg._register_on_completion_hook(hook)
    second = "accepted"
except ValueError as error:
    second = str(error)
for k in range(5):
    dist.all_reduce(torch.ones(100_000), group=pg, async_op=True)
dist.barrier(group=pg, async_op=True)
pg._wait_for_pending_works()
waited = len(infos)
dist.all_reduce(torch.ones(100), group=pg, async_op=True)
has = pg._has_hooks()
dist.destroy_process_group(pg)  # waits for them, too
result = [sorted(infos), waited, len(infos), second, has]
"""


@pytest.mark.timeout(60)
def test_completion_hook_and_pending_works(ranks):
    for infos, waited, in_the_end, second, has in ranks.run(COMPLETION):
        names = [["ALLREDUCE", k, True, True] for k in (1, 2, 3, 4, 5, 7)]
        assert infos == sorted([*names, ["BARRIER", 6, True, True]])
        assert (waited, in_the_end, has) == (6, 7, True)
        assert "already" in second


ABORT = """
from torch._C._distributed_c10d import ErrorType
pg = dist.new_group(list(range(n)))
backend = pg._get_backend(torch.device("cpu"))
calls = []
healthy = backend.get_error() == ErrorType.SUCCESS
work = dist.all_reduce(torch.ones(1000), group=pg, async_op=True) if rank == 0 else None
def first():
    calls.append(["first", work is None or work.is_completed()])
    raise RuntimeError("a hook that fails stops nothing")
pg.register_abort_hook(1, first)
pg.register_abort_hook(2, lambda: calls.append(["second"]))
pg.register_abort_hook(3, lambda: calls.append(["third"]))
pg.unregister_abort_hook(3)
if rank == 0:
    pg.abort()
    try:
        work.wait()
        ended = "passed"
    except papilio.Aborted:
        ended = "aborted"
    result = [healthy, calls, ended, backend.get_error() == ErrorType.COMM_ERROR]
else:
    result = [healthy, calls, backend.get_error() == ErrorType.SUCCESS]
"""


@pytest.mark.timeout(60)
def test_abort_hooks(ranks):
    first, *others = ranks.run(ABORT)
    assert first == [True, [["first", False], ["second"]], "aborted", True]
    assert others == [[True, [], True]] * 2


SLOW_HOOK = """
import threading
pg = dist.new_group(list(range(n)))
released = threading.Event()
seen = []
def hook():
    seen.append(released.wait(30))
pg.register_abort_hook(1, hook)
result = None
if rank == 0:
    work = dist.all_reduce(torch.ones(1000), group=pg, async_op=True)
    thread = threading.Thread(target=pg.abort)
    thread.start()
    try:
        work.wait()
    except papilio.Aborted:
        aborting = thread.is_alive()
        released.set()
    thread.join(30)
    result = [aborting, thread.is_alive(), seen]
"""


@pytest.mark.timeout(60)
def test_a_slow_abort_hook_holds_up_nobody_who_waits(ranks):
    assert ranks.run(SLOW_HOOK)[0] == [True, False, [True]]


TIMEOUTS = """
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch._C._distributed_c10d import ErrorType
pg = dist.new_group(list(range(n)))
backend = pg._get_backend(torch.device("cpu"))
def fails_after():  # only rank 0 enters
    begin = time.monotonic()
    try:
        dist.barrier(group=pg)
    except papilio.DeadlineExceeded:
        return time.monotonic() - begin
_set_pg_timeout(timedelta(milliseconds=400), pg)
dist.barrier()
result = None
if rank == 0:
    plain = fails_after()
    error = backend.get_error() == ErrorType.TIMEOUT
    pg._add_ephemeral_timeout(timedelta(milliseconds=900))
    pg._add_ephemeral_timeout(timedelta(milliseconds=700))
    result = [plain, error, fails_after(), fails_after(), backend.options.timeout.total_seconds()]
dist.barrier()
"""


@pytest.mark.timeout(60)
def test_timeouts_can_be_set_and_extended_for_a_while(ranks):
    plain, error, extended, after, option = ranks.run(TIMEOUTS)[0]
    assert 0.4 <= plain < 1.9 and error
    assert extended >= 2.0
    assert 0.4 <= after < 1.9
    assert option == 0.4


@pytest.mark.timeout(60)
def test_get_error_after_a_death():
    source = """
from torch._C._distributed_c10d import ErrorType
backend = dist.group.WORLD._get_backend(torch.device("cpu"))
before = backend.get_error() == ErrorType.SUCCESS
try:
    dist.all_gather_into_tensor(torch.zeros(2 * n), torch.ones(2))
except papilio.PeerFailed:
    pass
result = [before, backend.get_error() == ErrorType.REMOTE_ERROR]
"""
    with Cluster(3) as ranks:
        ranks.run("dist.barrier()")
        ranks[2].kill()
        assert ranks.run(source, ranks=[0, 1]) == [[True, True]] * 2


BLOCKING = """
import threading
pg = dist.new_group(list(range(n)))
at_once, most = 0, 0
lock = threading.Lock()
def hook(info):
    global at_once, most
    with lock:
        at_once += 1
        most = max(most, at_once)
    threading.Event().wait(0.002)  # without the interpreter: a second one could come in
    with lock:
        at_once -= 1
pg._register_on_completion_hook(hook)
def ones():
    return dist.all_reduce(torch.ones(1000), group=pg, async_op=True)
def chain(depth):
    # The callback issues the next collective, and waits for it inside the callback.
    return lambda future: future.value()[0].sum() + (
        ones().get_future().then(chain(depth - 1)).wait() if depth else 0)
chained = [ones().get_future().then(chain(5)) for _ in range(3)]
first, second = ones(), ones()  # both are out before the first callback is there
crossed = first.get_future().then(lambda future: second.get_future().wait()[0].sum())
waited = first.get_future().then(lambda future: second.wait())
result = [[float(f.wait()) for f in chained], float(crossed.wait()), waited.wait(), 0]
pg._wait_for_pending_works()
result[-1] = most
"""


@pytest.mark.timeout(60)
def test_callbacks_may_wait_for_other_collectives():
    with Cluster(3) as fresh:
        for chained, crossed, waited, hooks_at_once in fresh.run(BLOCKING):
            assert chained == [3000.0 * 6] * 3
            assert crossed == 3000.0
            assert waited is True
            assert hooks_at_once == 1
