"""A short `make demo` with its real faults; its checks; the same script under other launchers."""

import copy
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from cluster import REPOSITORY, wait_until

sys.path.insert(0, os.path.join(REPOSITORY, "examples"))
from fault_demo import checks, plot, summary, timeline  # noqa: E402
from fault_demo.history import load  # noqa: E402
from fault_demo.job import Job, plan  # noqa: E402

SCRIPT = os.path.join(REPOSITORY, "examples", "train_gpt.py")
PATIENCE = 1.0


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """One real run through all three faults."""
    out = tmp_path_factory.mktemp("demo")
    settings = {"PAPILIO_PATIENCE": f"{PATIENCE:g}", "PAPILIO_TRANSPORT": "ucx"}
    # Enough steps that the others are still training when the frozen rank has caught up.
    job = Job(out, steps=260, settings=settings, faults=plan(260, 2.0), say=print, limit=150)
    return load(job.run())


@pytest.mark.timeout(200)
def test_every_promise_holds(history):
    results = [*checks.on_faulty_run(history), checks.steps_bounded(history, 0.5, PATIENCE)]
    failed = [f"{check.promise}: {check.evidence}" for check in results if not check.good]
    assert not failed, "\n".join(failed) + "\n" + timeline.text(history, 1, 3)
    assert [action.kind for action in history.actions] == ["kill", "stop", "continue", "width"]
    assert history.status == 0


def _late_step(h):
    h.steps[3][60]["seconds"] = 60.0


def _lost_step(h):
    h.steps[1].pop()


def _wrong_gradient(h):
    h.rounds[3][-1]["chunks"][0]["contributors"] = [1, 2, 3]


def _another_error(h):
    h.errors[3] = (0.0, "PeerFailed", "")


def _never_frozen(h):
    h.action("stop").proof = "SIGSTOP, process state R"


def _blames_a_survivor(h):
    h.rounds[1][5]["blamed"] = {"3": "slow"}


def _never_back(h):
    for report in h.rounds[3]:
        if report["when"] > h.action("stop").when:
            report["chunks"][0]["contributors"] = [3]


def _death_not_seen(h):
    h.events = [e for e in h.events if (e["me"], e["kind"]) != (2, "peer_lost")]


def _wrong_values(h):
    h.steps[1][-1]["held_out"] *= 1.5


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("damage", "promise"),
    [
        (_late_step, "longer than patience"),
        (_lost_step, "finish all steps"),
        (_wrong_gradient, "not one gradient"),
        (_another_error, "alone gets SchemaMismatch"),
        (_never_frozen, "took effect"),
        (_blames_a_survivor, "nobody is blamed"),
        (_never_back, "counts again"),
        (_death_not_seen, "noticed by all"),
        (_wrong_values, "right values again"),
    ],
)
def test_a_broken_promise_is_found(history, damage, promise):
    broken = copy.deepcopy(history)
    damage(broken)
    results = [*checks.on_faulty_run(broken), checks.steps_bounded(broken, 0.5, PATIENCE)]
    failed = [check.promise for check in results if not check.good]
    assert any(promise in text for text in failed), failed


def test_loss_is_compared_with_the_fault_free_run(history):
    assert checks.loss_like_fault_free(history, history).good
    other = copy.deepcopy(history)
    other.steps[3][-1]["held_out"] *= 1.06
    assert not checks.loss_like_fault_free(history, other).good
    assert not checks.reference_is_clean(history).good  # it has degraded rounds


def test_story_tables_and_picture(history, tmp_path):
    story = timeline.text(history, 1, 3)
    parts = ["SIGKILL to rank 0", "SIGSTOP to rank 1", "SIGCONT to rank 1", "peer 0 is lost"]
    parts += ["peer 1 is late", "blacklists peer 2 (schema", "raises SchemaMismatch"]
    for part in parts:
        assert part in story, story
    tables = summary.phase_table(history, 3) + "\n" + summary.rank_table(history, None)
    assert "{0,1,2,3} 100%" in tables and "2 (schema)" in tables, tables
    text = f"{story}\n{tables}".splitlines()
    assert all(line.isascii() for line in text)
    assert [line for line in text if len(line) > 120] == []
    plot.draw(tmp_path / "timeline.png", history, None, 3, PATIENCE)
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("backend", ["papilio", "gloo"])
def test_same_script_under_torchrun(backend, tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
    ]
    command += [SCRIPT, "--backend", backend, "--steps", "4", "--metrics", str(tmp_path / "steps")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    last = [
        json.loads((tmp_path / f"steps.{r}.jsonl").read_text().splitlines()[-1]) for r in range(2)
    ]
    assert [x["step"] for x in last] == [3, 3]
    assert last[0]["held_out"] == last[1]["held_out"]  # the same model on both ranks


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.timeout(100)
def test_interrupt_leaves_nothing_behind(tmp_path):
    demo = os.path.join(REPOSITORY, "examples", "demo.py")
    process = subprocess.Popen(
        [sys.executable, demo, "--steps", "100", "--out", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has it ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    output = tmp_path / "fault-free" / "output.txt"

    def ranks():
        return re.findall(r"\d+ = pid (\d+)", output.read_text() if output.exists() else "")

    pids = [int(pid) for pid in wait_until(ranks, timeout=60, what="four ranks")]
    assert len(pids) == 4
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=40)
    assert process.returncode == 130 and "interrupted, all ranks stopped" in errors, errors
    assert all(_gone(pid) for pid in pids)


def test_demo_refuses_senseless_arguments():
    demo = os.path.join(REPOSITORY, "examples", "demo.py")
    for arguments, says in (
        (["--steps", "10"], "80 steps"),
        (["--freeze", "1"], "shorter than 2 s"),
    ):
        done = subprocess.run(
            [sys.executable, demo, *arguments], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2 and says in done.stderr
