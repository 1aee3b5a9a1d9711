"""Ranks that die and come back into the running training; members that change between steps."""

import gc
import json
import random
import signal

import pytest
from cluster import SOAK, Cluster, Zygote, wait_until

pytestmark = pytest.mark.timeout(120)

START = "from trainer import Trainer; trainer = Trainer({}); result = trainer.run()"
PATIENCE = 2.0


@pytest.fixture(autouse=True, scope="module")
def loaded():
    Zygote.get().load("trainer")
    Zygote.get().load("torch._dynamo")  # optimizers import it


class Job:
    """A training on a cluster, steered through the store."""

    def __init__(self, ranks: Cluster, arguments: str = ""):
        self.ranks = ranks
        self.source = START.format(arguments)

    def start(self, chosen=None) -> None:
        for rank in chosen if chosen is not None else range(self.ranks.n):
            self.ranks[rank].send("collective", source=self.source)

    def at(self, rank: int):
        """(step, joined, view) as the rank last said."""
        key = f"at/{rank}"
        return (
            json.loads(self.ranks.store.get(key)) if self.ranks.store.check([key]) else [0, True, 0]
        )

    def await_step(self, step: int, rank: int = 0, timeout: float = 40) -> None:
        wait_until(lambda: self.at(rank)[0] >= step, timeout, f"step {step} on rank {rank}")

    def restart(self, rank: int) -> None:
        self.ranks.store.delete_key(f"at/{rank}")
        self.ranks.restart(rank)
        self.start([rank])

    def await_joined(self, rank: int, timeout: float = 40) -> int:
        self.await_step(1, rank, timeout)
        wait_until(lambda: self.at(rank)[1], timeout, f"rank {rank} joined")
        return self.at(rank)[0]

    def stop(self, chosen=None, after: int = 50) -> list:
        """All end at one step; their summaries."""
        chosen = list(chosen if chosen is not None else range(self.ranks.n))
        last = max(self.at(rank)[0] for rank in chosen) + after
        self.ranks.store.set("stop", str(last))
        summaries = []
        for rank in chosen:
            answer = self.ranks[rank].receive()
            assert answer["ok"], answer.get("trace", answer)
            summaries.append(answer["result"])
        for rank in chosen:
            assert "still differs" not in "".join(self.ranks[rank].errors)
        for summary in summaries:
            assert summary["step"] == last
            assert summary["wrong"] == 0
            assert summary["trained"]
        return summaries


def same(summaries) -> bool:
    return len({summary["crc"] for summary in summaries}) == 1


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("wrapped", ["", "wrapped=True"])
def test_a_killed_rank_comes_back(victim, wrapped):
    with Cluster(4, patience=PATIENCE) as ranks:
        job = Job(ranks, wrapped)
        job.start()
        other = (victim + 1) % 4
        job.await_step(30, other)
        ranks[victim].kill()
        died_at = job.at(other)[0]
        job.await_step(died_at + 30, other)
        job.restart(victim)
        joined_at = job.await_joined(victim)
        assert joined_at > died_at + 30
        summaries = job.stop()
        assert same(summaries)
        for rank, summary in enumerate(summaries):
            if rank == victim:
                continue
            # One view without it, one with it again; nobody waited for its start.
            assert summary["views"] == [1, 2, 3]
            assert summary["received"] == 0
            assert summary["longest"] < PATIENCE
        events = ranks[other].call("events")["events"]
        views = [e for e in events if e["detail"].startswith("view ")]
        kinds = [(e["kind"], e["rank"]) for e in views]
        assert kinds == [("view", other), ("view", other), ("rejoined", victim)]
        assert {e["rank"] for e in events if e["kind"] == "peer_lost"} == {victim}
        # The schedule's state came along.
        assert len({summary["epoch"] for summary in summaries}) == 1


def test_two_come_back_at_once():
    with Cluster(4, patience=PATIENCE) as ranks:
        job = Job(ranks)
        job.start()
        job.await_step(30)
        for victim in (1, 3):
            ranks[victim].kill()
        job.await_step(job.at(0)[0] + 20)
        for victim in (1, 3):
            job.restart(victim)
        for victim in (1, 3):
            job.await_joined(victim)
        assert same(job.stop())


def test_a_rank_that_dies_while_it_comes_back_holds_nobody_up():
    with Cluster(3, patience=PATIENCE) as ranks:
        job = Job(ranks)
        job.start()
        job.await_step(20)
        ranks[2].kill()
        job.await_step(job.at(0)[0] + 20)
        ranks.restart(2)
        # It asks to be let in, and is killed at once: before, while or after it is.
        ranks[2].send("collective", source=job.source)
        wait_until(lambda: requests(ranks.store), what="a request")
        ranks[2].kill()
        job.await_step(job.at(0)[0] + 50)
        job.restart(2)
        job.await_joined(2)
        assert same(job.stop())


def requests(store) -> list:
    return [key for key in store.list_keys() if "/join/" in key]


def test_the_others_go_on_when_the_coordinator_dies_too():
    with Cluster(4, patience=PATIENCE) as ranks:
        job = Job(ranks)
        job.start()
        job.await_step(30, 3)
        ranks[2].kill()
        ranks[0].kill()  # who would decide the view without rank 2
        job.await_step(job.at(3)[0] + 50, 3)
        for victim in (0, 2):
            job.restart(victim)
        for victim in (0, 2):
            job.await_joined(victim)
        assert same(job.stop())


def test_one_that_was_frozen_during_a_change_is_told_and_comes_back():
    with Cluster(4, patience=0.5) as ranks:
        job = Job(ranks)
        job.start()
        job.await_step(30)
        ranks[1].signal(signal.SIGSTOP)
        ranks[3].kill()
        # Ranks 0 and 2 decide without it, after patience.
        wait_until(lambda: job.at(0)[2] == 2, what="a view without ranks 1 and 3")
        ranks[1].signal(signal.SIGCONT)
        wait_until(lambda: job.at(1)[2] == 3, what="rank 1 in a view again")
        job.restart(3)
        job.await_joined(3)
        summaries = job.stop()
        assert same(summaries)
        assert [summary["evicted"] for summary in summaries] == [0, 1, 0, 0]


def test_a_lone_restarted_rank_says_that_nobody_is_left():
    with Cluster(2, patience=PATIENCE) as ranks:
        job = Job(ranks)
        job.start()
        job.await_step(10)
        for rank in ranks:
            rank.kill()
        ranks.restart(1)
        job.source = "papilio._membership._MEET = 2.0\n" + job.source
        job.start([1])
        answer = ranks[1].receive()
        assert answer["error"] == "QuorumLost", answer
        assert "no member of the group is left" in answer["text"]


def test_unless_told_so_a_second_process_is_refused():
    with Cluster(2, patience=PATIENCE) as ranks:
        ranks[1].kill()
        answer = ranks.start_again(1, "0")
        assert not answer["ok"]
        assert "PAPILIO_REJOIN=1" in answer["text"]


def test_training_goes_on_without_the_store():
    steps = "for _ in range({}): trainer.T.step()\nresult = trainer.T.summary()"
    with Cluster(3, patience=PATIENCE) as ranks:
        source = "import trainer; trainer.T = trainer.Trainer()\n"
        assert same(ranks.run(source + steps.format(20)))
        ranks.store = None  # the server ends with its last reference
        gc.collect()
        ranks[2].kill()
        summaries = ranks.run("import trainer\n" + steps.format(300), ranks=[0, 1])
        assert same(summaries)
        assert [(s["views"], s["wrong"], s["step"]) for s in summaries] == [([1, 2], 0, 320)] * 2
        for rank in (0, 1):
            said = wait_until(lambda rank=rank: "store does not" in "".join(ranks[rank].errors))
            assert said


def test_what_cannot_be_handed_over_is_refused_at_once():
    source = """
import pytest
from torch.distributed.fsdp import fully_shard
from torch.distributed.device_mesh import init_device_mesh
model = torch.nn.Linear(8, 8)
fully_shard(model, mesh=init_device_mesh("cpu", (n,)))
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
with pytest.raises(ValueError, match="sharded tensors"):
    papilio.attach(model, optimizer)
whole = torch.nn.Linear(8, 8)
optimizer = torch.optim.SGD(whole.parameters(), lr=1.0)
with pytest.raises(ValueError, match="call papilio.attach"):
    papilio.step_boundary()
papilio.attach(whole, optimizer)
with pytest.raises(ValueError, match="attached already"):
    papilio.attach(whole, optimizer)
"""
    with Cluster(2, patience=PATIENCE) as ranks:
        ranks.run(source)


@pytest.mark.parametrize("cycles", [20 if SOAK else 3])
def test_cycles_of_kill_and_restart(cycles):
    choose = random.Random(7)
    with Cluster(4, patience=PATIENCE) as ranks:
        job = Job(ranks, "wrapped=True")
        job.start()
        for _ in range(cycles):
            victim = choose.randrange(4)
            other = (victim + 1) % 4
            begin = job.at(other)[0]
            job.await_step(begin + choose.randrange(10, 60), other)
            ranks[victim].kill()
            job.await_step(job.at(other)[0] + choose.randrange(2, 40), other)
            job.restart(victim)
            job.await_joined(victim)
        assert same(job.stop())
