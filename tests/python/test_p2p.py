"""send, recv, batches, objects: matched by peer and tag in order, errors that name the peer."""

import signal
import time

import pytest
from cluster import Cluster

pytestmark = pytest.mark.usefixtures("lane")


@pytest.fixture
def pair(lane):
    with Cluster(2) as ranks:
        yield ranks


RING = """
rank, n = dist.get_rank(), dist.get_world_size()
result = []
for numel in (0, 1, 1000, 1_000_003):
    for dtype in (torch.float32, torch.int64, torch.uint8, torch.bool, torch.complex64):
        mine = torch.full((numel,), rank + 1).to(dtype)
        got = torch.full((numel,), 9).to(dtype)
        works = [dist.isend(mine, (rank + 1) % n), dist.irecv(got, (rank - 1) % n)]
        for work in works:
            work.wait()
        result.append(bool((got == torch.full((numel,), (rank - 1) % n + 1).to(dtype)).all()))
"""


@pytest.mark.timeout(60)
def test_ring_of_all_sizes_and_types():
    with Cluster(4) as ranks:
        for good in ranks.run(RING):
            assert all(good) and len(good) == 20


TAGS = """
if dist.get_rank() == 0:
    sends = [dist.isend(torch.tensor([float(i)]), 1, tag=i % 3) for i in range(30)]
    for work in reversed(sends):
        work.wait()
    result = None
else:
    got = {}
    for tag in (2, 0, 1):
        for _ in range(10):
            tensor = torch.zeros(1)
            dist.recv(tensor, 0, tag=tag)
            got.setdefault(tag, []).append(int(tensor))
    result = [got[0], got[1], got[2]]
"""


@pytest.mark.timeout(60)
def test_tags_keep_their_order_and_unmatched_sends_do_not_block(pair):
    assert pair.run(TAGS)[1] == [list(range(tag, 30, 3)) for tag in range(3)]


ANY = """
rank = dist.get_rank()
if rank == 0:
    result = []
    for _ in range(3):
        tensor = torch.zeros(1)
        result.append((dist.recv(tensor), int(tensor)))
    result.sort()
else:
    dist.send(torch.tensor([float(rank * 10)]), 0)
    result = None
"""


@pytest.mark.timeout(60)
def test_from_anybody():
    with Cluster(4) as ranks:
        assert ranks.run(ANY)[0] == [[1, 10], [2, 20], [3, 30]]


BATCH = """
rank, n = dist.get_rank(), dist.get_world_size()
outs = [torch.full((50_000,), float(rank * n + k)) for k in range(n)]
ins = [torch.zeros(50_000) for _ in range(n)]
ops = []
for k in range(n):
    if k != rank:
        ops.append(dist.P2POp(dist.isend, outs[k], k))
for k in reversed(range(n)):
    if k != rank:
        ops.append(dist.P2POp(dist.irecv, ins[k], k))
for work in dist.batch_isend_irecv(ops):
    work.wait()
ok = all((ins[k] == float(k * n + rank)).all() for k in range(n) if k != rank)
objects = [None, None]
if rank == 0:
    dist.send_object_list([{"a": 1}, "text"], dst=1)
if rank == 1:
    dist.recv_object_list(objects, src=0)
result = [bool(ok), objects]
"""


@pytest.mark.timeout(60)
def test_batches_and_objects():
    with Cluster(4) as ranks:
        answers = ranks.run(BATCH)
        assert all(ok for ok, _ in answers)
        assert answers[1][1] == [{"a": 1}, "text"]


DROPPED = """
import gc
rank = dist.get_rank()
if rank == 0:
    for i in range(20):
        dist.isend(torch.full((100_000,), float(i)), 1)
    gc.collect()
    result = 0
else:
    wrong = 0
    for i in range(20):
        tensor = torch.zeros(100_000)
        dist.recv(tensor, 0)
        wrong += int((tensor != float(i)).sum())
    result = wrong
"""


@pytest.mark.timeout(60)
def test_works_that_nobody_keeps(pair):
    assert pair.run(DROPPED) == [0, 0]


MIXED = """
rank = dist.get_rank()
other = 1 - rank
bad = 0
for i in range(50):
    reduced = torch.full((20_000,), float(rank))
    work = dist.all_reduce(reduced, async_op=True)
    got = torch.zeros(3000)
    send = dist.isend(torch.full((3000,), float(i)), other)
    dist.recv(got, other)
    send.wait()
    work.wait()
    bad += int((got != float(i)).sum()) + int((reduced != 1.0).sum())
result = [bad, papilio.last_report().outcome]
"""


@pytest.mark.timeout(60)
def test_beside_collectives(pair):
    """Messages have numbers of their own: collectives of all ranks stay in step."""
    assert pair.run(MIXED) == [[0, "complete"]] * 2


def error_of(answer) -> tuple:
    return answer.get("error"), answer.get("ranks")


@pytest.mark.timeout(60)
def test_another_size_is_an_error_on_both_sides(pair):
    pair[0].send("collective", source="dist.send(torch.zeros(100), 1)")
    pair[1].send("collective", source="dist.recv(torch.zeros(101), 0)")
    assert error_of(pair[0].receive()) == ("SchemaMismatch", [1])
    assert error_of(pair[1].receive()) == ("SchemaMismatch", [0])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", ["send", "recv", "any"])
def test_a_dead_peer_ends_it_at_once(what):
    call = {"send": "dist.send(t, 1)", "recv": "dist.recv(t, 1)", "any": "dist.recv(t)"}[what]
    with Cluster(2) as ranks:
        ranks[0].send("collective", source=f"t = torch.zeros(1 << 22)\n{call}")
        ranks[1].run("result = 1")
        killed = ranks[1].kill()
        answer = ranks[0].receive()
        assert time.monotonic() - killed < 1.0
        assert error_of(answer) == ("PeerFailed", [1]), answer
        again = ranks[0].call("collective", source=f"t = torch.zeros(10)\n{call}")
        assert again["error"] == "PeerFailed"


LARGE = """
import builtins
t = torch.full((1 << 24,), 7.0)
if dist.get_rank() == 0:
    dist.send(t, 1)
else:
    dist.recv(t.zero_(), 0)
result = int((t != 7.0).sum())
"""


LATE = """
import datetime
work = dist.isend(torch.full((1 << 24,), 7.0), 1)
try:
    work.wait(datetime.timedelta(seconds=1))
    result = "sent"
except dist.DistBackendError as error:
    result = [type(error).__name__, error.ranks]
"""


@pytest.mark.timeout(60)
def test_a_frozen_receiver_costs_the_timeout_and_no_staging(pair):
    assert pair.run(LARGE) == [0, 0]
    pair[1].signal(signal.SIGSTOP)
    assert pair[0].run(LATE) == ["DeadlineExceeded", [1]]
    staged = pair[0].run("result = papilio.stats()['staging']['bytes_in_use']")
    assert staged < 64 * 1024, "64 MiB wait for a receive in the user's tensor"
    pair[1].signal(signal.SIGCONT)
    assert pair.run(LARGE) == [0, 0]


@pytest.mark.timeout(60)
def test_bad_arguments(pair):
    for call, kind in (
        ("dist.distributed_c10d._get_default_group().send([t], 0, 0)", "ValueError"),
        ("dist.distributed_c10d._get_default_group().send([t], 7, 0)", "ValueError"),
        ("dist.send(torch.zeros(4, 4).t(), 1)", "ValueError"),
    ):
        answer = pair[0].call("collective", source=f"t = torch.zeros(4)\n{call}")
        assert answer["error"] == kind, answer
