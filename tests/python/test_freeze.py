"""SIGSTOP in mid-run: one patience for the hit round, full speed afterwards, and right values for
the frozen rank when it is back."""

import signal
import threading

import pytest
from cluster import SOAK, Cluster, wait_until

pytestmark = pytest.mark.usefixtures("lane")

PATIENCE = 2.0
NUMEL = 1 << 20  # 4 MiB
SLACK = 1.0  # seconds beyond patience that a hit round may take
DEFAULT = {}  # patience 5 s


def freeze_and_continue(victim: int, options: dict):
    patience = options.get("patience", 5.0)
    others = [r for r in range(4) if r != victim]
    with Cluster(4, **options) as ranks:
        for salt in range(5):
            for answer in ranks.all("allreduce", numel=NUMEL, salt=salt):
                assert answer["ok"] and answer["wrong"] == 0
        ranks[victim].signal(signal.SIGSTOP)
        for answer in ranks.all("allreduce", ranks=others, numel=NUMEL, salt=10):
            assert answer["ok"] and answer["wrong"] == 0
            assert answer["seconds"] < patience + SLACK, answer["seconds"]
            assert answer["report"]["blamed"] == {str(victim): "slow"}, answer["report"]
        for salt in range(11, 31):
            for answer in ranks.all("allreduce", ranks=others, numel=NUMEL, salt=salt):
                assert answer["ok"] and answer["wrong"] == 0
                assert answer["seconds"] < 0.5, answer["seconds"]
                assert set(answer["report"]["blamed"]) == {str(victim)}
        ranks[victim].signal(signal.SIGCONT)
        # It catches up on the rounds it missed, then everybody is complete again.
        for salt in range(10, 31):
            ranks[victim].send("allreduce", numel=NUMEL, salt=salt)
        for _ in range(10, 31):
            late = ranks[victim].receive()
            assert late["ok"] and late["wrong"] == 0, late
            assert late["seconds"] < patience + SLACK, late["seconds"]
        salt = 40

        def complete_again():
            nonlocal salt
            salt += 1
            answers = ranks.all("allreduce", numel=NUMEL, salt=salt)
            assert all(a["ok"] and a["wrong"] == 0 for a in answers), answers
            return all(a["report"]["outcome"] == "complete" for a in answers)

        wait_until(complete_again, timeout=20, what="complete rounds after SIGCONT")
        for rank in ranks:
            blaming = [e for e in rank.call("events")["events"] if e["kind"] != "fallback"]
            assert {e["rank"] for e in blaming} <= ({victim} - {rank.rank}), blaming
            assert rank.run("result = len(papilio.blacklist())") == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("victim", range(4) if SOAK else [0, 3])
def test_freeze_and_continue(victim):
    freeze_and_continue(victim, {"patience": PATIENCE})


@pytest.mark.timeout(120)
@pytest.mark.parametrize("victim", range(4) if SOAK else [1])
def test_freeze_with_default_options(victim):
    freeze_and_continue(victim, DEFAULT)


@pytest.mark.timeout(120)
def test_freeze_during_a_round():
    with Cluster(4, patience=PATIENCE) as ranks:
        warm = ranks.all("allreduce", numel=NUMEL * 16, salt=1)
        for rank in ranks:
            rank.send("allreduce", numel=NUMEL * 16, salt=2, announce=True)
        for rank in ranks:
            assert rank.receive()["announce"]
        delay = min(a["seconds"] for a in warm) / 3
        timer = threading.Timer(delay, lambda: ranks[1].signal(signal.SIGSTOP))
        timer.start()
        for r in (0, 2, 3):
            assert ranks[r].receive()["returned"]
            answer = ranks[r].receive()
            assert answer["ok"] and answer["wrong"] == 0, answer
            assert answer["seconds"] < PATIENCE + SLACK, answer["seconds"]
        timer.join()
        ranks[1].signal(signal.SIGCONT)
        assert ranks[1].receive()["returned"]
        answer = ranks[1].receive()
        assert answer["ok"] and answer["wrong"] == 0, answer["report"]
