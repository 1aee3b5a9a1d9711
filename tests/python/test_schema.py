"""The wrong model: another numel, dtype or fingerprint is found before one byte of it counts."""

import pytest
from cluster import Cluster

pytestmark = pytest.mark.usefixtures("lane")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["numel", "dtype"])
def test_one_rank_differs(kind):
    right = {"numel": 5000, "salt": 2}
    wrong = right | ({"numel": 5001} if kind == "numel" else {"dtype": "float64"})
    with Cluster(4) as ranks:
        ranks.all("allreduce", numel=5000, salt=1)
        for rank in ranks:
            rank.send("allreduce", **(wrong if rank.rank == 3 else right))
        answers = [rank.receive() for rank in ranks]
        assert answers[3]["error"] == "SchemaMismatch", answers[3]
        assert "5001" in answers[3]["text"] or "float64" in answers[3]["text"]
        assert set(answers[3]["ranks"]) <= {0, 1, 2} and answers[3]["ranks"]
        for answer in answers[:3]:
            assert answer["ok"] and answer["wrong"] == 0, answer
            assert answer["report"]["blamed"] == {"3": "schema"}
        for salt in (3, 4):
            for answer in ranks.all("allreduce", ranks=[0, 1, 2], numel=5000, salt=salt):
                assert answer["ok"] and answer["wrong"] == 0
                assert answer["report"]["blamed"] == {"3": "schema"}
        entries = ranks[0].call(
            "collective", source="result = [vars(e) for e in papilio.blacklist()]"
        )["result"]
        assert [(e["rank"], e["reason"], e["expires"]) for e in entries] == [(3, "schema", None)]


@pytest.mark.timeout(120)
def test_fingerprint_differs():
    with Cluster(4, init=False) as ranks:
        for rank in ranks:
            rank.send("init", options={"fingerprint": "b" if rank.rank == 1 else "a"})
        assert all(rank.receive()["ok"] for rank in ranks)
        answers = ranks.all("allreduce", numel=100000, salt=1)
        assert answers[1]["error"] == "SchemaMismatch"
        for r in (0, 2, 3):
            assert answers[r]["ok"] and answers[r]["wrong"] == 0
            assert answers[r]["report"]["blamed"] == {"1": "schema"}


@pytest.mark.timeout(120)
def test_two_ranks_that_disagree_both_fail():
    with Cluster(2) as ranks:
        ranks[0].send("allreduce", numel=100, salt=1)
        ranks[1].send("allreduce", numel=101, salt=1)
        for rank in ranks:
            answer = rank.receive()
            assert answer["error"] == "SchemaMismatch", answer
            assert answer["mine"] != answer["theirs"]
