"""SIGKILL before, during and after an all-reduce of 64 MiB: the others return in under a second
with values that their reports explain exactly."""

import random
import threading
import time

import pytest
from cluster import Cluster, RankDied

NUMEL = 16 * 1024 * 1024  # 64 MiB of float32
LIMIT = 1.0  # seconds from the kill, or from the call when the rank was dead before


def kill_during(ranks, victim: int, delay: float, salt: int):
    """All ranks enter; the victim dies `delay` seconds after it said that it begins."""
    for rank in ranks:
        rank.send("allreduce", numel=NUMEL, salt=salt, announce=True)
    for rank in ranks:
        assert rank.receive()["announce"]
    killed_at = []

    def kill():
        ranks[victim].kill()
        killed_at.append(time.monotonic())

    timer = threading.Timer(delay, kill)
    timer.start()
    answers = {r: ranks[r].receive() for r in range(ranks.n) if r != victim}
    timer.join()
    return answers


def check(answers, victim: int):
    for rank, answer in answers.items():
        assert answer["ok"], answer
        assert answer["wrong"] == 0, (rank, answer["report"])
        for blamed, reason in answer["report"]["blamed"].items():
            assert (int(blamed), reason) == (victim, "dead"), answer["report"]
        for chunk in answer["report"]["chunks"]:
            missing = set(range(4)) - set(chunk["contributors"])
            assert chunk["source"] == "local" or missing <= {victim}, chunk


@pytest.mark.timeout(120)
@pytest.mark.parametrize("victim", range(4))
def test_kill_during(victim):
    random.seed(victim)
    with Cluster(4) as ranks:
        warm = ranks.all("allreduce", numel=NUMEL, salt=1)
        assert all(a["ok"] and a["wrong"] == 0 for a in warm)
        usual = max(a["seconds"] for a in warm)
        delay = random.random() * usual
        answers = kill_during(ranks, victim, delay, salt=2)
        check(answers, victim)
        for answer in answers.values():
            assert answer["seconds"] < delay + LIMIT + usual, (delay, usual, answer)
        # Afterwards the group works at full speed without the victim.
        others = [r for r in range(4) if r != victim]
        after = ranks.all("allreduce", ranks=others, numel=NUMEL, salt=3)
        for answer in after:
            assert answer["ok"] and answer["wrong"] == 0
            assert answer["report"]["outcome"] == "degraded"
            assert answer["report"]["blamed"] == {str(victim): "dead"}
            assert answer["seconds"] < LIMIT + usual


@pytest.mark.timeout(120)
def test_kill_before_and_again():
    with Cluster(4) as ranks:
        ranks.all("allreduce", numel=1000, salt=1)
        ranks[0].kill()
        answers = ranks.all("allreduce", ranks=[1, 2, 3], numel=NUMEL, salt=2)
        answers = dict(zip([1, 2, 3], answers, strict=True))
        check(answers, 0)
        assert all(a["seconds"] < LIMIT + 0.5 for a in answers.values()), answers
        ranks[2].kill()
        for answer in ranks.all("allreduce", ranks=[1, 3], numel=1000, salt=3):
            assert answer["ok"] and answer["wrong"] == 0
            assert set(answer["report"]["blamed"]) == {"0", "2"}
        ranks[1].kill()
        alone = ranks[3].call("allreduce", numel=1000, salt=4)
        assert alone["ok"] and alone["wrong"] == 0


@pytest.mark.timeout(60)
def test_dead_rank_does_not_answer():
    with Cluster(2) as ranks:
        ranks[1].kill()
        with pytest.raises(RankDied):
            ranks[1].receive()
