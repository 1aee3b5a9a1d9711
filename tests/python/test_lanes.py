"""Which lane a pair of ranks uses, and ranks that use different ones in one group."""

import os
import signal

import pytest
from cluster import Cluster

NUMEL = 100_000
LANES = "result = [p.lane for p in papilio.peers()]"
SENT = "result = {k: v['sent'] for k, v in papilio.stats()['bytes'].items() if isinstance(v, dict)}"


def reduce(ranks, **options):
    return ranks.all("allreduce", numel=NUMEL, **options)


@pytest.mark.timeout(60)
def test_shared_memory_within_a_host():
    with Cluster(2) as ranks:
        assert all(a["ok"] and a["wrong"] == 0 for a in reduce(ranks, salt=1))
        assert ranks.run(LANES) == [["self", "shm"], ["shm", "self"]]
        for sent in ranks.run(SENT):
            assert sent["shm"] >= NUMEL * 4 // 2, sent


@pytest.mark.timeout(60)
def test_ucx_alone(monkeypatch):
    monkeypatch.setenv("PAPILIO_TRANSPORT", "ucx")
    with Cluster(2) as ranks:
        assert all(a["ok"] and a["wrong"] == 0 for a in reduce(ranks, salt=1))
        assert ranks[0].run(LANES)[1].startswith("ucx tcp")
        for sent in ranks.run(SENT):
            assert sent["shm"] == 0 and sent["ucx"] >= NUMEL * 4 // 2, sent


@pytest.mark.timeout(60)
def test_both_in_one_group():
    """Rank 3 has no shared memory: the others reach it over UCX and each other without."""
    own = [{}, {}, {}, {"PAPILIO_TRANSPORT": "ucx"}]
    with Cluster(4, environments=own) as ranks:
        for salt in range(5):
            assert all(a["ok"] and a["wrong"] == 0 for a in reduce(ranks, salt=salt))
        lanes = ranks.run(LANES)
        assert [lane.split()[0] for lane in lanes[0]] == ["self", "shm", "shm", "ucx"]
        assert [lane.split()[0] for lane in lanes[3]] == ["ucx", "ucx", "ucx", "self"]
        ranks[1].kill()
        for answer in ranks.all("allreduce", ranks=[0, 2, 3], numel=NUMEL, salt=9):
            assert answer["ok"] and answer["wrong"] == 0
            assert answer["report"]["blamed"] == {"1": "dead"}


@pytest.mark.timeout(60)
def test_shared_memory_only_needs_it_everywhere():
    own = [{"PAPILIO_TRANSPORT": "shm"}, {"PAPILIO_TRANSPORT": "ucx"}]
    with Cluster(2, environments=own) as ranks:
        answer = ranks[0].call("allreduce", numel=NUMEL, salt=1)
        assert answer["report"]["blamed"] == {"1": "unreachable"}, answer
        assert "transport='shm' and no shared memory with it" in "".join(ranks[0].errors)


@pytest.mark.timeout(60)
def test_nothing_stays_behind_kill_9():
    """No name in /dev/shm, and a survivor lets go of the memory that it had mapped."""
    before = set(os.listdir("/dev/shm"))
    mapped = "result = open('/proc/self/maps').read().count('memfd:papilio')"
    with Cluster(3) as ranks:
        reduce(ranks, salt=1)
        assert set(os.listdir("/dev/shm")) == before
        assert ranks.run(mapped) == [3, 3, 3]
        ranks[1].signal(signal.SIGKILL)
        ranks[1].wait()
        ranks.all("allreduce", ranks=[0, 2], numel=NUMEL, salt=2)
        assert ranks.run(mapped, ranks=[0, 2]) == [2, 2]
    assert set(os.listdir("/dev/shm")) == before
