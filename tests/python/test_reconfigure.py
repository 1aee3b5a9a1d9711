"""torch's fault-tolerance interface: members installed from outside, by handle."""

import os
import signal
import time

import pytest
from cluster import Cluster, Rank, wait_until

INIT = """
dist.init_process_group("papilio", enable_reconfigure=True, timeout=timedelta(seconds=30),
                        pg_options=papilio.Options(patience=1.0))
result = [dist.distributed_c10d._supports_reconfigure()]
try:
    dist.barrier()
except dist.DistBackendError as error:
    result.append("call reconfigure() first" in str(error))
"""
HANDLE = "result = dist.distributed_c10d._get_reconfigure_handle()"

RECONFIGURE = """
from torch._C._distributed_c10d import ErrorType
me = int(os.environ["RANK"])
backend = dist.group.WORLD._get_backend(torch.device("cpu"))
handles = {handles!r}
handles = set(handles) if {as_set} else handles
begin = time.monotonic()
try:
    work = dist.distributed_c10d._reconfigure({uuid}, handles, timeout=timedelta(seconds={limit}))
    work.wait()
    result = {{"rank": dist.get_rank(), "size": dist.get_world_size()}}
except (dist.DistBackendError, ValueError) as error:
    result = {{"error": type(error).__name__, "text": str(error),
               "ranks": list(getattr(error, "ranks", ())), "seconds": time.monotonic() - begin}}
result["status"] = backend.get_error().name
"""

# Says when the reconfigure that follows is under way: there is no group then.
WATCH = """
def watch():
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            papilio.peers()
        except dist.DistBackendError as error:
            if "being reconfigured" in str(error):
                os.write(1, b'{"under_way": true}\\n')
                return
        time.sleep(0.001)
threading.Thread(target=watch).start()
"""

# Sum and gather of what each process is, whatever its rank.
USE = """
me = int(os.environ["RANK"])
backend = dist.group.WORLD._get_backend(torch.device("cpu"))
size = dist.get_world_size()
try:
    tensor = torch.full((1000,), 2.0 ** me)
    dist.all_reduce(tensor)
    gathered = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
    dist.all_gather(gathered, torch.tensor([me]))
    right = tensor.min() == tensor.max()
    result = [float(tensor[0]) if right else None, [int(t) for t in gathered],
              backend._get_sequence_number_for_group(), papilio.last_report().seq]
except dist.DistBackendError as error:
    result = str(error)
"""


class Members:
    """Processes that are told by the test who is in their group."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self.ranks = list(cluster.ranks)
        self.uuid = 0
        self.handles: list = []

    def begin(self) -> None:
        assert self.cluster.run(INIT) == [[True, True]] * len(self.ranks)
        self.handles = self.cluster.run(HANDLE)
        assert len(set(self.handles)) == len(self.ranks)

    def reconfigure(self, *views, by=None, limit=20, uuid=None, as_set=False) -> dict:
        """Every process of each view at once (or those in ``by``); answers by process."""
        for view in views:
            self.uuid += 1
            source = RECONFIGURE.format(
                handles=[self.handles[i] for i in view],
                uuid=uuid or self.uuid,
                limit=limit,
                as_set=as_set,
            )
            for i in by if by is not None else view:
                self.ranks[i].send("collective", source=source)
        out = {}
        for view in views:
            for i in by if by is not None else view:
                answer = self.ranks[i].receive()
                assert answer["ok"], answer
                out[i] = answer["result"]
        return out

    def check(self, view) -> None:
        """The processes of the view are its ranks in this order, and their collectives work."""
        for i in view:
            self.ranks[i].send("collective", source=USE)
        for i in view:
            answer = self.ranks[i].receive()
            assert answer["ok"], answer
            total, gathered, number, round_number = answer["result"]
            assert total == sum(2.0**k for k in view)
            assert gathered == list(view)
            # Counted from the reconfigure, whose first round is its own.
            assert (number, round_number) == (2, 3)

    def install(self, *views, **how) -> None:
        answers = self.reconfigure(*views, **how)
        for view in views:
            for i in view:
                place = {"rank": view.index(i), "size": len(view), "status": "SUCCESS"}
                assert answers[i] == place, answers
        for view in views:
            self.check(view)


@pytest.fixture
def members():
    with Cluster(4, init=False) as cluster:
        chosen = Members(cluster)
        chosen.begin()
        yield chosen


@pytest.mark.timeout(120)
def test_views_come_and_go(members):
    members.install([0, 1, 2, 3])
    members.install([0, 1, 2, 3])  # the same again
    members.install([3, 1, 0, 2])  # other ranks
    members.install([0, 1], [2, 3])
    members.install([0], [1], [2], [3])
    members.install([1, 2])  # 0 and 3 keep what they had
    members.install([0, 3, 1, 2])
    answers = members.reconfigure([0, 1, 2], as_set=True)
    order = sorted(range(3), key=lambda i: answers[i]["rank"])
    assert order == sorted(range(3), key=lambda i: members.handles[i])
    members.check(order)


@pytest.mark.timeout(120)
def test_a_refused_reconfigure_changes_nothing(members):
    members.install([0, 1, 2])
    for answer in members.reconfigure([0, 1, 2], uuid=members.uuid).values():
        assert answer["error"] == "DistBackendError" and "already used" in answer["text"]
    for answer in members.reconfigure([0, 1], by=[2]).values():
        assert answer["error"] == "ValueError" and "own handle is not among" in answer["text"]
    for answer in members.reconfigure([0, 1, 2, 2]).values():
        assert answer["error"] == "ValueError" and "of one process" in answer["text"]
    members.handles.append("somebody")
    for answer in members.reconfigure([0, 1, 2, 4], by=[0, 1, 2]).values():
        assert answer["error"] == "ValueError" and "is no handle" in answer["text"]
    source = "dist.barrier()\nresult = dist.get_world_size()"
    assert members.cluster.run(source, ranks=[0, 1, 2]) == [3] * 3


@pytest.mark.timeout(120)
def test_who_does_not_come_is_named_and_the_next_attempt_works(members):
    members.install([0, 1, 2])
    for answer in members.reconfigure([0, 1, 3], by=[0, 1], limit=0.5).values():
        assert answer["error"] == "DeadlineExceeded" and 2 in answer["ranks"]
        assert "Timed out" in answer["text"] and answer["status"] == "TIMEOUT"
    for text in members.cluster.run(USE, ranks=[0, 1]):
        assert "its last reconfigure failed" in text
    assert members.cluster.run(HANDLE) == members.handles
    # The late one comes to a meeting that is over.
    late = members.reconfigure([0, 1, 3], by=[3], limit=0.5, uuid=members.uuid)[3]
    assert late["error"] in ("PeerFailed", "DeadlineExceeded")  # heard of their leaving, or not
    assert set(late["ranks"]) & {0, 1}
    members.install([0, 1, 2, 3])


@pytest.mark.timeout(120)
def test_success_takes_an_answer_from_those_that_are_about_to_give_up(members):
    """Ranks 0 and 1 joined and are past their deadline, frozen, when rank 2 comes."""
    members.install([0, 1, 2])  # so that all are connected
    for _ in range(2):
        members.uuid += 1
        for i, limit in enumerate((1, 1, 30)):
            how = {"handles": members.handles[:3], "uuid": members.uuid, "as_set": False}
            source = WATCH + RECONFIGURE.format(limit=limit, **how)
            members.ranks[i].send("collective", source=source)
            assert members.ranks[i].receive() == {"under_way": True}
            if i < 2:
                over = time.monotonic() + limit  # its deadline is before that
                members.ranks[i].signal(signal.SIGSTOP)
        wait_until(lambda end=over: time.monotonic() > end, what="the deadline of ranks 0 and 1")
        members.ranks[0].signal(signal.SIGCONT)
        # Rank 1 is frozen until both have answered, so nobody can have heard from it.
        answers = [members.ranks[i].receive()["result"] for i in (0, 2)]
        members.ranks[1].signal(signal.SIGCONT)
        answers.append(members.ranks[1].receive()["result"])
        for answer in answers:
            assert answer.get("error") in ("PeerFailed", "DeadlineExceeded"), answers
        late = answers[1]
        assert late["error"] == "PeerFailed" and set(late["ranks"]) <= {0, 1}, answers
        assert late["seconds"] < 20, answers  # because rank 0 gave up, not at its own deadline
        members.install([0, 1, 2])


@pytest.mark.timeout(120)
def test_after_abort_and_out_of_a_stuck_collective(members):
    members.install([0, 1, 2, 3])
    source = """
backend = dist.group.WORLD._get_backend(torch.device("cpu"))
backend.abort()
result = backend.get_error().name
"""
    assert members.cluster.run(source) == ["COMM_ERROR"] * 4
    members.install([0, 1, 2])
    stuck = """
def wait():
    try:
        work.wait()
    except Exception as error:
        papilio.test_outcome = type(error).__name__
work = dist.barrier(async_op=True)
papilio.test_thread = threading.Thread(target=wait)
papilio.test_thread.start()
"""
    members.ranks[0].run(stuck)  # the others never enter
    members.install([0, 1, 2])
    waiting = RECONFIGURE.format(
        handles=members.handles[:2], uuid=1000, limit=25, as_set=False
    ).replace(
        "begin = time.monotonic()",
        "begin = time.monotonic()\nthreading.Timer(0.3, backend.abort).start()",
    )
    aborted = members.ranks[0].run(waiting)
    assert aborted["error"] == "Aborted" and aborted["seconds"] < 15
    assert aborted["status"] == "COMM_ERROR"
    members.install([0, 1, 2])
    done = "papilio.test_thread.join()\nresult = papilio.test_outcome"
    assert members.ranks[0].run(done) == "Aborted"


@pytest.mark.timeout(120)
def test_a_killed_member_is_named_and_replaced(members):
    members.install([0, 1, 2, 3])
    members.ranks[2].kill()
    wait_until(
        lambda: members.ranks[0].run("result = papilio.peers()[2].state") == "dead",
        what="the death to be known",
    )
    answer = members.reconfigure([0, 1, 2], by=[0])[0]
    assert answer["error"] == "PeerFailed" and answer["ranks"] == [2]
    assert answer["seconds"] < 10 and answer["status"] == "REMOTE_ERROR"
    members.install([0, 1, 3])
    # A new process in the place of the dead one.
    cluster = members.cluster
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(cluster.port),
        "WORLD_SIZE": "4",
        "RANK": "2",
        "LOCAL_RANK": "2",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    cluster.ranks[2] = members.ranks[2] = Rank(2, environment)
    assert members.ranks[2].run(INIT) == [True, True]
    members.handles[2] = members.ranks[2].run(HANDLE)
    members.install([0, 1, 2, 3])


@pytest.mark.timeout(120)
def test_a_frozen_member_holds_nobody_up_and_comes_back(members):
    members.install([0, 1, 2, 3])
    members.ranks[3].signal(signal.SIGSTOP)
    begin = time.monotonic()
    for answer in members.reconfigure([0, 1, 2, 3], by=[0, 1, 2], limit=1).values():
        assert answer["error"] == "DeadlineExceeded" and answer["ranks"] == [3]
    assert time.monotonic() - begin < 20
    members.install([0, 1, 2])
    members.ranks[3].signal(signal.SIGCONT)
    members.install([0, 1, 2, 3])
