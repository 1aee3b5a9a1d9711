"""PAPILIO_EVENTS_FILE: every round and every event of a real run is in the file, and no more."""

import json
import os
import signal
import subprocess
import sys

import pytest
from cluster import Cluster, wait_until


def lines_of(path) -> list:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rounds_in(path) -> list:
    return [line for line in lines_of(path) if line["kind"] == "round"]


@pytest.mark.timeout(120)
def test_every_round_and_event_is_recorded(tmp_path):
    rounds = 400  # more than the recorder reads at once
    template = str(tmp_path / "events.{rank}.jsonl")
    environment = {"PAPILIO_EVENTS_FILE": template}
    with Cluster(3, environment=environment, report_history=5000) as ranks:
        ranks.all("many", sizes=[1000] * rounds, salt=1)
        ranks[0].kill()
        last = ranks.all("allreduce", ranks=[1, 2], numel=1000, salt=2)
        assert all(answer["ok"] for answer in last)
        ranks.all("destroy", ranks=[1, 2])
        for rank in (1, 2):
            path = tmp_path / f"events.{rank}.jsonl"
            wait_until(lambda path=path: len(rounds_in(path)) > rounds, what="all rounds recorded")
            mine = lines_of(path)
            assert mine[0]["kind"] == "group" and mine[0]["size"] == 3
            assert {x["me"] for x in mine} == {rank} and {x["group"] for x in mine} == {"world"}
            numbers = [x["seq"] for x in rounds_in(path)]
            assert sorted(numbers) == sorted(set(numbers)) and len(numbers) == rounds + 1
            final = max(rounds_in(path), key=lambda x: x["seq"])
            assert final["outcome"] == "degraded" and final["blamed"] == {"0": "dead"}
            assert final["chunks"][0]["contributors"] == [1, 2]
            lost = [x for x in mine if x["kind"] == "peer_lost"]
            assert [x["rank"] for x in lost if x["reason"] == "dead"] == [0]
            assert not any(x["kind"] == "missed" for x in mine)


@pytest.mark.timeout(120)
def test_short_history_says_that_reports_are_missing(tmp_path):
    environment = {"PAPILIO_EVENTS_FILE": str(tmp_path / "all.jsonl")}
    with Cluster(2, environment=environment, report_history=2) as ranks:
        ranks.all("many", sizes=[10] * 300, salt=1)
        path = tmp_path / "all.jsonl"  # shared by both
        wait_until(
            lambda: {x["me"] for x in lines_of(path) if x["kind"] == "missed"} == {0, 1},
            what="a line about missing reports from both ranks",
        )


@pytest.mark.timeout(60)
def test_interpreter_exit_writes_what_is_left(tmp_path):
    """No destroy_process_group: the last round must still be in the file."""
    path = tmp_path / "one.jsonl"
    source = (
        "import torch, torch.distributed as d\n"
        "d.init_process_group('papilio', store=d.HashStore(), rank=0, world_size=1)\n"
        "for _ in range(5): d.all_reduce(torch.ones(4))\n"
    )
    environment = os.environ | {"PAPILIO_EVENTS_FILE": str(path)}
    subprocess.run([sys.executable, "-c", source], env=environment, check=True, timeout=50)
    assert [x["kind"] for x in lines_of(path)] == ["group"] + ["round"] * 5


@pytest.mark.timeout(60)
def test_bad_path_is_named(tmp_path):
    environment = {"PAPILIO_EVENTS_FILE": str(tmp_path / "missing" / "x.jsonl")}
    with Cluster(1, init=False, environment=environment) as ranks:
        answer = ranks[0].call("init")
        assert answer["error"] == "ValueError", answer
        assert "PAPILIO_EVENTS_FILE" in answer["text"] and "missing" in answer["text"]
        ranks[0].signal(signal.SIGTERM)
