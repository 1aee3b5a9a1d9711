"""Strict collectives end in a result or in an error that names the culprit, on every rank."""

import pytest
from cluster import Cluster

LIMIT = 5.0  # seconds; far below the group's timeout of 60

CALL = """
tensor = torch.full((100,), float(rank + 1), dtype=torch.float64)
try:
    {call}
    result = "fine"
except dist.DistBackendError as error:
    result = [type(error).__name__, sorted(error.ranks), error.reason, error.op, error.seq]
result = [result, float(tensor.min()), float(tensor.max())]
"""

PAIRS = {
    "root": ("dist.broadcast(tensor, 0)", "dist.broadcast(tensor, 1)"),
    "op": (
        "dist.all_reduce(tensor, dist.ReduceOp.MAX)",
        "dist.all_reduce(tensor, dist.ReduceOp.MIN)",
    ),
    "shape": (
        "dist.all_reduce(tensor, dist.ReduceOp.MAX)",
        "dist.all_reduce(tensor[:99], dist.ReduceOp.MAX)",
    ),
    "dtype": (
        "dist.all_reduce(tensor, dist.ReduceOp.MAX)",
        "dist.all_reduce(tensor.float(), dist.ReduceOp.MAX)",
    ),
    "order": ("dist.barrier()", "dist.broadcast(tensor, 0)"),
    "kind": ("dist.broadcast(tensor, 0)", "dist.all_reduce(tensor)"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", PAIRS)
def test_one_rank_calls_something_else(kind):
    right, wrong = (CALL.format(call=call) for call in PAIRS[kind])
    with Cluster(4) as ranks:
        for rank in ranks:
            rank.send("collective", source=wrong if rank.rank == 2 else right)
        for rank in ranks:
            answer = rank.receive(timeout=20)
            assert answer["ok"], answer["trace"]
            assert answer["seconds"] < LIMIT, answer
            outcome, low, high = answer["result"]
            if rank.rank == 2:
                assert outcome[0] == "SchemaMismatch", answer
                assert 2 not in outcome[1] and outcome[1], answer
            else:
                assert outcome[:3] == ["PeerFailed", [2], "schema"], answer
            # Unchanged: not one byte of anybody else.
            assert low == high == rank.rank + 1, answer


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", PAIRS)
def test_two_ranks_disagree(kind):
    with Cluster(2) as ranks:
        for rank, call in zip(ranks, PAIRS[kind], strict=False):
            rank.send("collective", source=CALL.format(call=call))
        for rank in ranks:
            answer = rank.receive(timeout=20)
            assert answer["ok"], answer["trace"]
            outcome, low, high = answer["result"]
            assert outcome[:2] == ["SchemaMismatch", [1 - rank.rank]], answer
            assert low == high == rank.rank + 1, answer


# What survivors get when rank 3 of 4 is dead: a value, or the name of an error.
AFTER_A_DEATH = {
    "t = torch.full((40,), rank + 1); dist.all_reduce(t); result = t.tolist()": [6] * 40,
    "t = torch.tensor([rank + 1.0]); dist.all_reduce(t); result = t.tolist()": [6.0],
    "t = torch.tensor([rank]); dist.all_reduce(t, dist.ReduceOp.MAX); result = t.tolist()": [2],
    # Shard by shard: laid over those that are left.
    "t = torch.full((1000003,), rank + 1); dist.all_reduce(t); result = t.unique().tolist()": [6],
    "t = torch.full((1000003,), rank * 1.0); dist.all_reduce(t, dist.ReduceOp.MAX);"
    "result = t.unique().tolist()": [2.0],
    "t = torch.full((1000003,), rank * 1.0)\nwith papilio.strict(): dist.all_reduce(t)\n"
    "result = t.unique().tolist()": [3.0],
    "dist.barrier(); result = 'passed'": "passed",
    "t = torch.tensor([rank]); dist.broadcast(t, 1); result = t.tolist()": [1],
    "out = [torch.zeros(1) for _ in range(n)]; dist.all_gather(out, torch.ones(1))": "PeerFailed",
    "dist.all_gather_into_tensor(torch.zeros(4), torch.ones(1))": "PeerFailed",
    "dist.reduce_scatter_tensor(torch.zeros(1), torch.ones(4))": "PeerFailed",
    "dist.all_to_all_single(torch.zeros(4), torch.ones(4))": "PeerFailed",
}


@pytest.mark.timeout(60)
def test_after_a_death():
    with Cluster(4) as ranks:
        ranks.run("dist.barrier()")
        ranks[3].kill()
        for source, expected in AFTER_A_DEATH.items():
            for rank, answer in enumerate(
                ranks.all("collective", ranks=[0, 1, 2], source=source, timeout=20)
            ):
                assert answer.get("seconds", 0) < LIMIT
                if expected == "PeerFailed":
                    assert answer["error"] == "PeerFailed", (source, answer)
                    assert answer["ranks"] == [3] and answer["reason"] == "dead", answer
                    assert "rank 3" in answer["text"] and f"rank {rank}/4" in answer["text"]
                else:
                    assert answer["ok"] and answer["result"] == expected, (source, answer)
        # Over the live members, unscaled, and the report says who is missing.
        ranks.all("allreduce", ranks=[0, 1, 2], numel=15, salt=1, check=False)
        for report in ranks.run("result = papilio.last_report().asdict()", ranks=[0, 1, 2]):
            assert report["mode"] == "strict" and report["outcome"] == "degraded", report
            assert report["blamed"] == {"3": "dead"}, report
            assert [c["contributors"] for c in report["chunks"]] == [[0, 1, 2]], report


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "call",
    [
        "dist.all_gather_into_tensor(torch.zeros(4 * 4000000), torch.ones(4000000))",
        "dist.all_reduce(torch.ones(4000000, dtype=torch.int64))",
        "with papilio.strict(): dist.broadcast(torch.ones(16000000), 3)",
        "dist.barrier()",
    ],
)
def test_death_of_a_rank_that_others_wait_for(call):
    source = f"print('{{\"begun\": true}}', flush=True)\n{call}"
    with Cluster(4) as ranks:
        ranks.run("dist.barrier()")
        for rank in (0, 1, 2):
            ranks[rank].send("collective", source=source)
            assert ranks[rank].receive()["begun"]
        moment = ranks[3].kill()
        for rank in (0, 1, 2):
            answer = ranks[rank].receive(timeout=20)
            if "barrier" in call:
                assert answer["ok"], answer
                assert answer["end"] - moment < LIMIT
                continue
            if answer["ok"]:  # the death was known before the call: it ran over the rest
                assert "int64" in call, answer
                continue
            assert answer["error"] == "PeerFailed" and answer["ranks"] == [3], answer
        ranks.run("dist.barrier()", ranks=[0, 1, 2])


# A tensor of many blocks, another one on each rank; equal elements, so that a torn one shows.
BROADCAST = """
tensor = torch.full((4000000,), float(rank + 1))
{begin}
dist.broadcast(tensor, 3)
result = [float(tensor.min()), float(tensor.max()), papilio.last_report().asdict()]
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("enters", [False, True])
def test_broadcast_goes_on_without_its_root(enters):
    begin = """print('{"begun": true}', flush=True)"""
    with Cluster(4) as ranks:
        ranks.run("dist.barrier()")
        for rank in (0, 1, 2) + ((3,) if enters else ()):
            ranks[rank].send("collective", source=BROADCAST.format(begin=begin))
            assert ranks[rank].receive()["begun"]
        moment = ranks[3].kill()
        answers = [ranks[rank].receive(timeout=20) for rank in (0, 1, 2)]
        for answer in answers:
            assert answer["ok"], answer
            assert answer["end"] - moment < LIMIT
            low, high, report = answer["result"]
            # The root's, if somebody had got all of it, else that of the lowest live rank.
            assert low == high == answers[0]["result"][0]
            if not enters:
                assert low == 1.0 and report["outcome"] == "degraded", answer
                assert report["blamed"] == {"3": "dead"}, report
                assert [(c["source"], c["contributors"]) for c in report["chunks"]] == [
                    ("redone", [0])
                ], report
            assert low in (1.0, 4.0)
        # Known to be dead at the start: the same, and strict calls and groups refuse.
        for answer in ranks.run(BROADCAST.format(begin=""), ranks=[0, 1, 2]):
            assert answer[:2] == [1.0, 1.0] and answer[2]["mode"] == "bounded"
        strict = "with papilio.strict(): dist.broadcast(torch.ones(3), 3)"
        for answer in ranks.all("collective", ranks=[0, 1, 2], source=strict):
            assert (answer["error"], answer["ranks"]) == ("PeerFailed", [3]), answer


@pytest.mark.timeout(60)
def test_strict_group_has_no_broadcast_without_its_root():
    with Cluster(3, mode="strict") as ranks:
        ranks.run("dist.broadcast(torch.ones(3), 0)")
        ranks[0].kill()
        for answer in ranks.all(
            "collective", ranks=[1, 2], source="dist.broadcast(torch.ones(3), 0)"
        ):
            assert (answer["error"], answer["ranks"]) == ("PeerFailed", [0]), answer


@pytest.mark.timeout(60)
def test_strict_group_never_gives_a_partial_result():
    with Cluster(3, mode="strict") as ranks:
        for answer in ranks.all("allreduce", numel=100000, salt=1):
            assert answer["ok"] and answer["report"]["mode"] == "strict"
            assert answer["report"]["outcome"] == "complete"
        inside = "t = torch.ones(100)\nwith papilio.tolerant():\n    dist.all_reduce(t)\n"
        inside += "result = [papilio.last_report().mode, t.tolist() == [3.0] * 100]"
        assert ranks.run(inside) == [["bounded", True]] * 3
    with Cluster(3) as ranks:
        inside = "t = torch.ones(100)\nwith papilio.strict():\n    dist.all_reduce(t)\n"
        inside += "first = papilio.last_report().mode\ndist.all_reduce(t)\n"
        inside += "result = [first, papilio.last_report().mode, float(t[0])]"
        assert ranks.run(inside) == [["strict", "bounded", 9.0]] * 3
