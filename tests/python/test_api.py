"""The names of api.md sections 2 to 5: reports, peers, blacklist, statistics, events."""

import dataclasses
import pickle

import pytest
from cluster import Cluster, wait_until

REPORT = """
import dataclasses, pickle
tensor = torch.full((1000,), float(rank))
work = dist.all_reduce(tensor, async_op=True)
work.wait()
report = papilio.report(work)
result = {
    "same": papilio.last_report() == report == papilio.reports(last=1)[0],
    "pickled": pickle.loads(pickle.dumps(report)) == report,
    "dict": report.asdict(),
    "text": str(report),
    "history": [r.seq for r in papilio.reports(last=3)],
    "none": papilio.reports(last=0),
}
"""


@pytest.fixture(scope="module")
def ranks():
    with Cluster(3, report_history=8) as cluster:
        yield cluster


@pytest.mark.timeout(60)
def test_report(ranks):
    ranks.run("for _ in range(20):\n    dist.barrier()")
    for answer in ranks.run(REPORT):
        assert answer["same"] and answer["pickled"] and answer["none"] == []
        report = answer["dict"]
        assert report["op"] == "allreduce" and report["reduce_op"] == "SUM"
        assert report["outcome"] == "complete" and report["mode"] == "bounded"
        assert (report["numel"], report["nbytes"], report["view"]) == (1000, 4000, 1)
        assert 0 < report["elapsed"] < 10 and report["blamed"] == {} and report["late"] == []
        assert report["self_suspect"] is False
        assert [(c["start"], c["stop"], c["source"]) for c in report["chunks"]] == [
            (0, 1000, "reduced")
        ]
        assert report["chunks"][0]["contributors"] == [0, 1, 2]
        assert report["chunks"][0]["weight"] == 3.0
        assert f"seq {report['seq']}" in answer["text"] and "complete" in answer["text"]
        assert answer["history"] == [report["seq"] - 2, report["seq"] - 1, report["seq"]]
    assert ranks.run("result = len(papilio.reports(last=1000))") == [8] * 3


@pytest.mark.timeout(60)
def test_report_of_a_running_work():
    source = """
work = dist.all_reduce(torch.ones(100), async_op=True)
result = [papilio.report(work) is None, work.is_completed()]
"""
    with Cluster(2) as ranks:
        ranks.run("dist.barrier()")
        assert ranks[0].run(source) == [True, False]
        ranks[1].run("dist.all_reduce(torch.ones(100))")


@pytest.mark.timeout(60)
def test_peers(ranks):
    ranks.run("for _ in range(5):\n    dist.all_reduce(torch.ones(1 << 22))")
    for rank, peers in enumerate(ranks.run("result = [vars(p) for p in papilio.peers()]")):
        assert [p["rank"] for p in peers] == [0, 1, 2]
        for peer in peers:
            assert set(peer) == {
                *("rank", "state", "incarnation", "lane", "address"),
                *("rtt", "goodput", "lag", "last_seen"),
            }
            assert peer["incarnation"] > 0
            if peer["rank"] == rank:
                assert (peer["state"], peer["lane"]) == ("self", "self")
            else:
                assert peer["state"] == "live" and peer["lane"] == "shm", peer
                assert peer["address"].startswith("127.0.0.1:"), peer
                assert peer["goodput"] > 0 and 0 <= peer["last_seen"] < 30, peer


@pytest.mark.timeout(60)
def test_ban_and_unban():
    look = "result = [vars(e) for e in papilio.blacklist()]"
    with Cluster(3) as ranks:
        ranks.run("dist.barrier()")
        ranks.run("papilio.ban(2, reason='smells', seconds=3000)", ranks=[0, 1])
        for answer in ranks.all("allreduce", ranks=[0, 1], numel=3000, salt=1):
            assert answer["ok"] and answer["wrong"] == 0
            assert answer["report"]["blamed"] in ({"2": "blacklisted"}, {"2": "manual"}), answer
            assert answer["report"]["outcome"] == "degraded"
        for entries in ranks.run(look, ranks=[0, 1]):
            (entry,) = entries
            assert (entry["rank"], entry["reason"]) == (2, "manual")
            assert 2900 < entry["expires"] - entry["since"] < 3100
        assert (
            ranks.run("result = [p.state for p in papilio.peers()][2]", ranks=[0, 1])
            == ["blacklisted"] * 2
        )
        late = ranks[2].call("allreduce", numel=3000, salt=1)
        assert late["ok"] and late["wrong"] == 0
        ranks.run("papilio.unban(2)", ranks=[0, 1])
        assert ranks.run(look, ranks=[0, 1]) == [[], []]
        salt = 1

        def complete_again():
            nonlocal salt
            salt += 1
            answers = ranks.all("allreduce", numel=3000, salt=salt)
            assert all(a["ok"] and a["wrong"] == 0 for a in answers), answers
            return all(a["report"]["outcome"] == "complete" for a in answers)

        wait_until(complete_again, what="complete rounds after unban")
        for bad in ("ban(0)", "ban(9)", "ban(-1)", "unban(9)", "ban(1, seconds=-1)"):
            answer = ranks[0].call("collective", source=f"papilio.{bad}")
            assert answer["error"] == "ValueError", (bad, answer)


@pytest.mark.timeout(60)
def test_stats_and_prometheus(ranks):
    before = ranks[0].run("result = papilio.stats()")
    ranks.run("for _ in range(5):\n    dist.all_reduce(torch.ones(100000))")
    after = ranks[0].run("result = papilio.stats()")
    assert after["rounds"]["complete"] == before["rounds"]["complete"] + 5
    sent = after["bytes"]["shm"]["sent"] - before["bytes"]["shm"]["sent"]
    assert sent >= 5 * 400000 * 4 // 3, sent
    for name in ("rejected", "queue", "staging"):
        assert after[name], name
    for name in ("strikes", "bans", "fallback_bytes", "views"):
        assert name in after
    text = ranks[0].run("result = papilio.prometheus()")
    lines = dict(line.rsplit(" ", 1) for line in text.strip().splitlines() if line[0] != "#")
    assert float(lines['papilio_rounds_complete{group="world"}']) >= after["rounds"]["complete"]


@pytest.mark.timeout(60)
def test_events_reach_every_handler():
    setup = """
papilio_seen = []
def broken(event):
    raise RuntimeError("this handler is broken on purpose")
papilio.on_event(broken)
import builtins
builtins.seen = []
papilio.on_event(lambda event: builtins.seen.append([event.kind, event.rank, event.reason,
    event.group, abs(event.when - time.time()) < 60, threading.current_thread().name]))
"""
    with Cluster(2) as ranks:
        ranks[0].run(setup)
        ranks.run("dist.barrier()")
        ranks[1].kill()
        answer = ranks[0].call("allreduce", numel=1000, salt=1)
        assert answer["ok"] and answer["wrong"] == 0
        seen = wait_until(
            lambda: ranks[0].run("import builtins; result = builtins.seen"), what="an event"
        )
        assert seen[0] == ["peer_lost", 1, "dead", "world", True, "papilio-events"], seen
        errors = "".join(ranks[0].errors)
        assert "this handler is broken on purpose" in errors
        lost = [line for line in ranks[0].errors if line.startswith("papilio[rank 0/2 world seq ")]
        assert any("peer 1 lost" in line and "pidfd" in line for line in lost), errors
        refused = ranks[0].call("collective", source="papilio.on_event(3)")
        assert refused["error"] == "TypeError"


@pytest.mark.timeout(60)
def test_rank_0_logs_its_deadlines_once():
    with Cluster(2, environment={"PAPILIO_LOG": "info"}, patience=3.0) as ranks:
        ranks.run("dist.barrier()")

        def ladders(rank):
            return [line for line in rank.errors if "deadlines:" in line]

        wait_until(lambda: ladders(ranks[0]), what="the ladder of deadlines")
        assert len(ladders(ranks[0])) == 1 and "3 s" in ladders(ranks[0])[0]
        assert ladders(ranks[0])[0].startswith("papilio[rank 0/2 world seq 0] ")
        assert ladders(ranks[1]) == []


@pytest.mark.timeout(60)
def test_weights_fallback_and_reports():
    with Cluster(3, init=False) as ranks:
        for rank in ranks:
            rank.send("init", options={"weight": rank.rank + 1.0, "fallback": "zero"})
        assert all(rank.receive()["ok"] for rank in ranks)
        source = """
tensor = torch.full((600,), float(rank))
dist.all_reduce(tensor, op=dist.ReduceOp.AVG)
result = [float(tensor.min()), float(tensor.max()), papilio.last_report().chunks[0].weight]
"""
        want = (0 * 1 + 1 * 2 + 2 * 3) / 6
        for low, high, weight in ranks.run(source):
            assert low == high and abs(low - want) < 1e-6 and weight == 6.0


def test_records_are_plain():
    import papilio

    chunk = papilio.Chunk(0, 10, "reduced", (0, 1), 2.0)
    report = papilio.Report(
        "allreduce", 3, 1, "bounded", "degraded", 10, 40, 0.5, [chunk], {2: "dead"}, (), False
    )
    assert pickle.loads(pickle.dumps(report)) == report
    assert report.asdict()["chunks"][0]["contributors"] == (0, 1)
    assert "rank 2 (dead)" in str(report) and len(str(report)) < 200
    assert dataclasses.is_dataclass(papilio.Peer) and dataclasses.is_dataclass(papilio.Event)


def test_fingerprint_names_shapes_dtypes_not_values():
    import torch

    import papilio

    def model(width=4, dtype=torch.float32):
        return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.BatchNorm1d(width)).to(dtype)

    first = papilio.fingerprint(model())
    assert first == papilio.fingerprint(model()) == papilio.fingerprint(model().state_dict())
    assert first != papilio.fingerprint(model(width=5))
    assert first != papilio.fingerprint(model(dtype=torch.float64))


def test_errors_are_backend_errors():
    import torch.distributed as dist

    import papilio

    names = (
        *("PeerFailed", "SchemaMismatch", "Evicted"),
        *("QuorumLost", "DeadlineExceeded", "Aborted"),
    )
    for name in names:
        kind = getattr(papilio, name)
        assert issubclass(kind, dist.DistBackendError)
        assert kind("text").ranks == ()


@pytest.mark.timeout(60)
def test_quorum_lost():
    with Cluster(3, min_peers=2) as ranks:
        ranks.run("dist.barrier()")
        ranks[2].kill()
        for answer in ranks.all("allreduce", ranks=[0, 1], numel=1000, salt=1):
            assert answer["ok"] and answer["wrong"] == 0
        ranks[1].kill()
        answer = ranks[0].call("allreduce", numel=1000, salt=2, timeout=20)
        assert answer["error"] == "QuorumLost", answer
        assert "min_peers" in answer["text"]
