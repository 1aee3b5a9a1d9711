"""SIGSTOP in mid-run: one patience for the hit round, full speed afterwards, and right values for
the frozen rank when it is back."""

import signal
import threading

import pytest
from cluster import Cluster, wait_until

PATIENCE = 2.0
NUMEL = 1 << 20  # 4 MiB


@pytest.mark.timeout(120)
@pytest.mark.parametrize("victim", [0, 3])
def test_freeze_and_continue(victim):
    others = [r for r in range(4) if r != victim]
    with Cluster(4, patience=PATIENCE) as ranks:
        for salt in range(5):
            for answer in ranks.all("allreduce", numel=NUMEL, salt=salt):
                assert answer["ok"] and answer["wrong"] == 0
        ranks[victim].signal(signal.SIGSTOP)
        hit = ranks.all("allreduce", ranks=others, numel=NUMEL, salt=10)
        for answer in hit:
            assert answer["ok"] and answer["wrong"] == 0
            assert answer["seconds"] < PATIENCE + 1, answer["seconds"]
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
            assert late["seconds"] < PATIENCE + 1, late["seconds"]
        salt = 40

        def complete_again():
            nonlocal salt
            salt += 1
            answers = ranks.all("allreduce", numel=NUMEL, salt=salt)
            assert all(a["ok"] and a["wrong"] == 0 for a in answers), answers
            return all(a["report"]["outcome"] == "complete" for a in answers)

        wait_until(complete_again, timeout=20, what="complete rounds after SIGCONT")
        for rank in others:
            for event in ranks[rank].call("events")["events"]:
                assert event["rank"] == victim, event
            entries = ranks[rank].call("collective", source="result = len(papilio.blacklist())")
            assert entries["result"] == 0


@pytest.mark.timeout(120)
def test_freeze_during_a_round():
    with Cluster(4, patience=PATIENCE) as ranks:
        ranks.all("allreduce", numel=NUMEL * 16, salt=1)
        for rank in ranks:
            rank.send("allreduce", numel=NUMEL * 16, salt=2, announce=True)
        for rank in ranks:
            assert rank.receive()["announce"]
        timer = threading.Timer(0.08, lambda: ranks[1].signal(signal.SIGSTOP))
        timer.start()
        for r in (0, 2, 3):
            answer = ranks[r].receive()
            assert answer["ok"] and answer["wrong"] == 0, answer
            assert answer["seconds"] < 2 * PATIENCE + 1, answer["seconds"]
        timer.join()
        ranks[1].signal(signal.SIGCONT)
        answer = ranks[1].receive()
        assert answer["ok"] and answer["wrong"] == 0, answer["report"]
