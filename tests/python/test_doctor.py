"""``python -m papilio.doctor``: finds what is wrong, and says nothing is when nothing is."""

import json
import os
import resource
import subprocess
import sys
from types import SimpleNamespace

from cluster import REPOSITORY, Cluster

from papilio.doctor import facts, trial


def doctor(*arguments, limit_files=None, **environment):
    def lower():
        if limit_files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit_files, limit_files))

    return subprocess.run(
        [sys.executable, "-m", "papilio.doctor", *arguments],
        env=os.environ | {"PYTHONPATH": REPOSITORY} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lower,
    )


def test_a_healthy_machine_and_its_lanes():
    done = doctor("--json")
    lines = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [line for line in lines if line["problem"]]
    topics = {line["topic"] for line in lines}
    assert {"versions", "host", "deadlines", "limits", "interfaces", "devices"} <= topics
    trials = [line["text"] for line in lines if line["topic"] == "trial"]
    assert "lane shm" in trials[0] and "lane ucx" in trials[1], trials
    assert any("127.0.0.1" in line["text"] for line in lines if line["topic"] == "interfaces")


def test_what_is_wrong_is_named_with_what_to_do():
    done = doctor(
        "--no-trial",
        limit_files=120,
        PAPILIO_PATIENC="3",
        PAPILIO_INTERFACE="nosuch9",
        PAPILIO_SECRET="do not show",
    )
    assert done.returncode == 1
    flat = " ".join(done.stdout.split())
    assert "!! PAPILIO_PATIENC means nothing; did you mean PAPILIO_PATIENCE?" in flat
    assert "!! PAPILIO_INTERFACE='nosuch9' is no interface or address here; name one of" in flat
    assert "enough for 9 ranks; ulimit -n 65536" in flat
    assert "3 problems" in flat and "do not show" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 120

    bad = doctor("--no-trial", PAPILIO_PATIENCE="minus one")
    assert bad.returncode == 1 and "PAPILIO_PATIENCE='minus one' is not allowed" in bad.stdout
    assert "between 0.05 and 3600" in " ".join(bad.stdout.split())
    lost = doctor("--no-trial", MASTER_ADDR="no.such.host.invalid")
    assert lost.returncode == 1 and "no.such.host.invalid" in lost.stdout


def test_a_lane_that_does_not_work_is_said(monkeypatch):
    monkeypatch.setenv("PAPILIO_PATIENCE", "-1")  # every rank ends with an error
    found, wrong = trial.run("shm")
    assert found == {} and "PAPILIO_PATIENCE" in wrong


def test_descriptors_are_as_many_as_it_says(lane):
    used = {}
    for n in (2, 4):
        with Cluster(n, init=False) as ranks:
            before = [len(rank.call("footprint")["fds"]) for rank in ranks]
            ranks.start()
            ranks.run("dist.all_reduce(torch.ones(1 << 20))")
            after = [len(rank.call("footprint")["fds"]) for rank in ranks]
            used[n] = max(b - a for a, b in zip(before, after, strict=True))
    bells = 1 if lane == "ucx" else 2  # its one socket stands in for the two
    assert used[4] - used[2] == 2 * (facts.DESCRIPTORS_PER_PEER - 2 + bells)
    assert used[2] <= facts.DESCRIPTORS + facts.DESCRIPTORS_PER_PEER


def test_gpus_and_the_way_of_their_tensors(monkeypatch):
    """No GPU here: torch.cuda is played by an object that has three, the last one far away."""
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 3,
        get_device_name=lambda n: f"Card {n}",
        can_device_access_peer=lambda one, other: other < 2,
    )
    monkeypatch.delenv("CUDA_MODULE_LOADING", raising=False)
    texts = [line.text for line in facts._gpus(cuda)]
    assert texts[:3] == ["GPU 0: Card 0", "GPU 1: Card 1", "GPU 2: Card 2"]
    within, near, far, between, loading = texts[3:]
    assert "pinned host memory" in within and "host_backend='nccl'" in within
    assert "host_backend='papilio' papilio would, but this build has no CUDA kernels" in within
    assert near.endswith("0-1") and "without peer access: 0-2, 1-2;" in far
    assert "to other hosts: pinned host memory, then UCX" in between
    assert "CUDA_MODULE_LOADING" in loading
    monkeypatch.setenv("CUDA_MODULE_LOADING", "EAGER")
    monkeypatch.setattr(facts._native, "cuda_kernels", lambda: "13.0")
    again = facts._gpus(cuda)
    assert len(again) == 7 and "in memory that they share" in again[3].text
