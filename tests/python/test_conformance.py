"""A quick part of torch's own DistributedTest; `make conformance` runs all of it, also for Gloo."""

import json
import pathlib
import subprocess
import sys

import pytest

RUNNER = pathlib.Path(__file__).resolve().parents[1] / "conformance" / "run.py"
QUICK = [
    "test_all_gather_coalesced_simple",
    "test_all_gather_full_group",
    "test_all_gather_object_subgroup",
    "test_all_reduce_coalesced_sum",
    "test_all_reduce_complex_unsupported_ops",
    "test_all_reduce_sum_complex",
    "test_barrier_timeout_full_group",
    "test_batch_isend_irecv_gloo_tags",
    "test_broadcast_full_group",
    "test_ddp_create_graph",
    "test_DistributedDataParallelCPU",
    "test_monitored_barrier_gloo",
    "test_new_subgroups_with_group_param",
    "test_reduce_product",
    "test_scatter_object_list",
    "test_send_recv_any_source_autograd_profiler",
    "test_send_recv_with_tag",
    "test_sparse_all_reduce_sum",
]


@pytest.mark.timeout(180)
def test_quick_part(tmp_path):
    results = tmp_path / "results.json"
    command = [sys.executable, RUNNER, "--backend", "papilio", "--json", results]
    command += ["--jobs", "4", "--only", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    by_test = json.loads(results.read_text())["papilio"]
    outcomes = {test: result["outcome"] for test, result in by_test.items()}
    assert outcomes == dict.fromkeys(QUICK, "passed")


JUDGE = """
import faulthandler, json, os, signal, sys
import schedule
faulthandler.register(signal.SIGUSR1)
results = {}
judge = schedule.Schedule(2, 0.5, 2, {73: "too small"}, lambda r: results.update({r["test"]: r}))
schedule.GRACE = 0.1

def hang(running):
    os.dup2(os.open(f"{running.folder}/rank0.log", os.O_CREAT | os.O_WRONLY), 2)
    while True:
        signal.pause()

ENDS = {
    "passes": [lambda _: os._exit(0)] * 2,
    "skips": [lambda _: os._exit(73)] * 2,
    "half": [lambda _: os._exit(0), lambda _: os._exit(73)],
    "crashes": [lambda _: signal.pause(), lambda _: os.kill(os.getpid(), signal.SIGSEGV)],
    "fails": [lambda _: os._exit(10), lambda _: os._exit(0)],
    "hangs": [hang, lambda _: os._exit(0)],
}
for name, ends in ENDS.items():
    running = judge.begin(name)
    for rank, end in enumerate(ends):
        open(f"{running.folder}/rank{rank}.log", "w").close()
        pid = os.fork()
        if pid == 0:
            end(running)
        running.add(pid)
judge.finish()
print(json.dumps(results))
"""


@pytest.mark.timeout(60)
def test_the_runner_looks_at_every_rank_and_ends_what_hangs():
    done = subprocess.run(
        [sys.executable, "-c", JUDGE], capture_output=True, text=True, cwd=RUNNER.parent, check=True
    )
    results = json.loads(done.stdout)
    assert results["passes"]["outcome"] == "passed"
    assert (results["skips"]["outcome"], results["skips"]["reason"]) == ("skipped", "too small")
    reasons = {
        "half": "some ranks passed and some skipped: exit codes [0, 73]",
        "crashes": "rank 1: SIGSEGV",
        "fails": "rank 0: exit code 10",
        "hangs": "time limit: ranks [0] still run",
    }
    for test, reason in reasons.items():
        assert (results[test]["outcome"], results[test]["reason"]) == ("failed", reason)
    assert any("in hang" in line for line in results["hangs"]["output"])
