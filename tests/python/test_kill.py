"""SIGKILL before, during and after an all-reduce of 64 MiB: the others return in under a second
with values that their reports explain exactly. `make soak` repeats each case 50 times."""

import random
import threading
import time

import pytest
from cluster import SOAK, Cluster, RankDied

pytestmark = pytest.mark.usefixtures("lane")

NUMEL = 16 * 1024 * 1024  # 64 MiB of float32
LIMIT = 1.0  # seconds from the kill, or from the call when the rank was dead before
REPEAT = 50 if SOAK else 1


def last_words(rank) -> list:
    """What a dead rank had still said."""
    words = []
    try:
        while True:
            words.append(rank.receive())
    except RankDied:
        return words


def had(report: dict, chunk: dict) -> bool:
    """Did that rank get these elements from the reducer itself, or from somebody who had them?"""
    common = [
        c for c in report["chunks"] if c["start"] < chunk["stop"] and c["stop"] > chunk["start"]
    ]
    return bool(common) and all(c["source"] in ("reduced", "fetched") for c in common)


def explained(ranks, answers: dict, victim: int, why: tuple = ("dead",)):
    """Exact values, and only the victim blamed and missing."""
    for rank, answer in answers.items():
        assert answer["ok"], answer
        assert answer["wrong"] == 0, (rank, answer["report"])
        for blamed, reason in answer["report"]["blamed"].items():
            assert int(blamed) == victim and reason in why, answer["report"]
        for chunk in answer["report"]["chunks"]:
            missing = set(range(ranks.n)) - set(chunk["contributors"]) - {victim}
            if chunk["source"] == "redone":
                # Who got the chunk before its reducer died, and returned, has no input for it left.
                missing = {r for r in missing if not had(answers[r]["report"], chunk)}
            assert chunk["source"] == "local" or not missing, chunk


def check(ranks, answers: dict, victim: int, since: float = 0.0):
    """The same, and nobody back later than LIMIT."""
    explained(ranks, answers, victim)
    for rank, answer in answers.items():
        seconds = answer["end"] - max(answer["begin"], since)
        assert seconds < LIMIT, (rank, seconds, ranks[rank].errors)


def go_on(ranks, victim: int):
    """Afterwards the group works without the victim."""
    others = [r for r in range(ranks.n) if r != victim]
    for answer in ranks.all("allreduce", ranks=others, numel=NUMEL // 16, salt=3):
        assert answer["ok"] and answer["wrong"] == 0
        assert answer["report"]["outcome"] == "degraded"
        assert answer["report"]["blamed"] == {str(victim): "dead"}
        assert answer["seconds"] < LIMIT


def enter(ranks):
    for rank in ranks:
        rank.send("allreduce", numel=NUMEL, salt=2, announce=True)
    for rank in ranks:
        assert rank.receive() == {"announce": True}


def finish(ranks, victim: int) -> dict:
    answers = {}
    for rank in ranks:
        if rank.rank == victim:
            continue
        assert rank.receive() == {"returned": True}
        answers[rank.rank] = rank.receive()
    return answers


def kill_during(victim: int, store_in_rank0: bool, chance: random.Random) -> bool:
    """False: the victim had returned from the call before it died, so nothing was proven."""
    with Cluster(4, store_in_rank0=store_in_rank0) as ranks:
        warm = ranks.all("allreduce", numel=NUMEL, salt=1)
        assert all(a["ok"] and a["wrong"] == 0 for a in warm)
        delay = chance.random() * 0.9 * min(a["seconds"] for a in warm)
        moment = []
        timer = threading.Timer(delay, lambda: moment.append(ranks[victim].kill()))
        enter(ranks)
        timer.start()
        answers = finish(ranks, victim)
        timer.join()
        if last_words(ranks[victim]):
            return False
        check(ranks, answers, victim, since=moment[0])
        go_on(ranks, victim)
        return True


@pytest.mark.timeout(1800 if SOAK else 120)
@pytest.mark.parametrize("victim,store_in_rank0", [(0, True), (0, False), (1, False), (3, False)])
def test_kill_during(victim, store_in_rank0):
    chance = random.Random(time.time_ns())
    proven = 0
    for _ in range(5 * REPEAT):
        proven += kill_during(victim, store_in_rank0, chance)
        if proven == REPEAT:
            return
    raise AssertionError(f"the victim was hit in the call only {proven} times of {5 * REPEAT}")


@pytest.mark.timeout(900 if SOAK else 120)
@pytest.mark.parametrize("victim,store_in_rank0", [(0, True), (2, False)])
def test_kill_before(victim, store_in_rank0):
    for _ in range(REPEAT):
        with Cluster(4, store_in_rank0=store_in_rank0) as ranks:
            assert all(a["ok"] for a in ranks.all("allreduce", numel=NUMEL, salt=1))
            ranks[victim].kill()
            others = [r for r in range(4) if r != victim]
            answers = ranks.all("allreduce", ranks=others, numel=NUMEL, salt=2)
            check(ranks, dict(zip(others, answers, strict=False)), victim)
            go_on(ranks, victim)


@pytest.mark.timeout(900 if SOAK else 120)
@pytest.mark.parametrize("victim,store_in_rank0", [(0, True), (1, False)])
def test_kill_after(victim, store_in_rank0):
    """The victim has its result and dies; what it owed the others as a reducer may be missing."""
    for _ in range(REPEAT):
        with Cluster(4, store_in_rank0=store_in_rank0) as ranks:
            assert all(a["ok"] for a in ranks.all("allreduce", numel=NUMEL, salt=1))
            enter(ranks)
            assert ranks[victim].receive() == {"returned": True}
            moment = ranks[victim].kill()
            check(ranks, finish(ranks, victim), victim, since=moment)
            go_on(ranks, victim)


@pytest.mark.timeout(120)
def test_kill_one_after_the_other():
    with Cluster(4) as ranks:
        ranks.all("allreduce", numel=1000, salt=1)
        ranks[0].kill()
        ranks[2].kill()
        for answer in ranks.all("allreduce", ranks=[1, 3], numel=1000, salt=3):
            assert answer["ok"] and answer["wrong"] == 0
            assert answer["report"]["blamed"] == {"0": "dead", "2": "dead"}
        ranks[1].kill()
        alone = ranks[3].call("allreduce", numel=1000, salt=4)
        assert alone["ok"] and alone["wrong"] == 0
        assert set(alone["report"]["blamed"]) == {"0", "1", "2"}
        states = ranks[3].run("result = [p.state for p in papilio.peers()]")
        assert states == ["dead", "dead", "dead", "self"]
