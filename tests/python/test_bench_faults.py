"""``python -m papilio.bench --fault`` and ``--straggler``: plans, what is seen, and whole runs."""

import csv
import json
import selectors
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from test_bench import bench

from papilio.bench import cli, faulted, flags
from papilio.bench.channel import Channel
from papilio.bench.injection import Fault, Injector, Straggler


@pytest.mark.parametrize(
    "arguments,named",
    [
        (["--fault", "boom@1:5"], "boom"),
        (["--fault", "partition@1:5"], "not built yet"),
        (["--fault", "crash@1"], "crash@1"),
        (["--fault", "crash@1:5:1s"], "for ever"),
        (["--fault", "freeze@1:5:soon"], "soon"),
        (["--fault", "hang@1:5+2ms"], "inside the call"),
        (["--fault", "crash@4:5"], "no rank 4"),
        (["--fault", "crash@1:50", "-n", "50"], "after the last"),
        (["--fault", "crash@1:10000"], "at most 10000"),
        (["--fault", "crash@1:5", "--mode", "isolated"], "isolated"),
        (["--fault", "crash@1:5", "-K", "3"], "-K"),
        (["--fault", "crash@1:5", "--interleave", "papilio,gloo", "--gate", "1"], "--gate"),
        (["--fault", "crash@0:5", "--straggler", "rank=1:delay=1ms", "--ranks", "2"], "nothing"),
        (["--straggler", "rank=1"], "delay"),
        (["--straggler", "rank=1:delay=0ms"], "0ms"),
        (["--straggler", "rank=1:delay=20"], "duration"),
        (["--straggler", "rank=1:delay=1ms:p=0"], "p in 0"),
        (["--straggler", "rank=1:delay=1ms:dist=cauchy"], "cauchy"),
        (["--straggler", "rank=1:delay=1ms:tail=3"], "tail"),
        (["--call-timeout", "3"], "--call-timeout"),
    ],
)
def test_bad_plans_are_usage_errors_that_name_them(arguments, named):
    with pytest.raises(flags.UsageError, match=named.replace("-", "[-]")):
        cli.parse(arguments)


def test_a_plan_is_read_as_written():
    options = cli.parse(
        [*("--fault", "freeze@3:50+2ms:1.5s", "--fault", "crash@1:7", "-T", "40")]
        + ["--straggler", "rank=2:delay=20ms:p=0.1:dist=exp"]
    )
    freeze, crash = options.faults
    assert (freeze.kind, freeze.rank, freeze.call) == ("freeze", 3, 50)
    assert (freeze.offset, freeze.length) == (0.002, 1.5)
    assert (crash.offset, crash.length) == (0.0, None)
    assert options.stragglers[0] == Straggler(
        "rank=2:delay=20ms:p=0.1:dist=exp", 2, 0.02, 0.1, "exp"
    )
    assert (options.mode, options.call_timeout) == ("streaming", 10.0)


@pytest.mark.parametrize("dist", ["fixed", "exp", "lognormal", "pareto"])
def test_delays_have_the_mean_that_was_asked_for_and_are_the_same_for_all(dist):
    straggler = Straggler.parse(f"rank=1:delay=20ms:p=0.5:dist={dist}")
    delays = straggler.delays(200_000, seed=3)
    late = delays[delays > 0]
    assert len(late) == pytest.approx(100_000, rel=0.02)
    assert late.mean() == pytest.approx(0.02, rel=0.03)
    assert (delays == straggler.delays(200_000, seed=3)).all()
    other = Straggler.parse(f"rank=2:delay=20ms:p=0.5:dist={dist}")
    assert (delays != other.delays(200_000, seed=3)).any()


def test_only_the_rank_that_is_meant_does_something():
    told: list = []
    faults = [Fault.parse("hang@1:2:1ms"), Fault.parse("hang@1:4:1ms")]
    stragglers = [Straggler.parse("rank=1:delay=1ms")]
    for rank in (0, 1):
        injector = Injector(rank, faults, stragglers, 5, 0, told.append)
        for call in range(5):
            injector.before(call)
        if rank == 0:
            assert told == []
    assert [message["fired"] for message in told] == [2, 2, 2, 0, 2, 2, 1]


def test_recovery_is_the_first_of_three_calls_at_the_old_pace():
    def call(end, us, outcome="ok"):
        return {"end": end, "us": us, "outcome": outcome}

    table = [call(1, 10), call(2, 900), call(3, 15), call(4, 900), call(5, 11), call(6, 12)]
    assert faulted._recovered([*table, call(7, 20)], 1.5, 10) == 5 - 1.5
    assert faulted._recovered([*table, call(7, 21)], 1.5, 10) is None
    assert faulted._recovered([*table, call(7, 9, "failed")], 1.5, 10) is None
    assert faulted._recovered([call(k, 10) for k in range(9)], 4.5, 10) == 0.5


_SMALL = ("--ranks", "3", "-b", "64K", "-e", "64K", "-w", "4", "-T", "24")


def _rows(done) -> dict:
    content = json.loads(done.stdout)
    return {row["backend"]: row for row in content["results"]} | {"all": content}


def test_a_crash_beside_gloo(tmp_path):
    done = bench(
        *(*_SMALL, "--interleave", "papilio,gloo", "-n", "40", "--fault", "crash@2:20"),
        *("--output-dir", str(tmp_path)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 120 and done.stdout.isascii()
    content = json.loads((tmp_path / "bench.json").read_text())
    ours, gloo = (row["faulted"] for row in content["results"])
    assert (ours["ok"] + ours["degraded"], ours["failed"]) == (40, 0)
    assert ours["degraded"] >= 18, "rank 2 is missing from its death on"
    assert 0.8 < ours["included"] < 0.9, "20 calls with three ranks, 20 with two"
    assert 0 <= ours["detected"] <= ours["recovered"] + 1 and ours["recovered"] < 5
    assert (gloo["ok"], gloo["degraded"], gloo["failed"]) == (20, 0, 3), "its job has ended"
    assert gloo["recovered"] is None and gloo["detected"] > 0
    assert (ours["planned"], ours["fired"], gloo["fired"]) == (1, 1, 1)
    assert [row["verified"] for row in content["results"]] == [4, 0], "20 to 22 and the last"
    assert content["args"]["faults"] == ["crash@2:20"] and content["summary"]["wrong"] == 0
    second = [line.split() for line in done.stdout.splitlines() if not line.startswith("#")][2:]
    assert [row[:2] for row in second] == [["65536", "papilio"], ["65536", "gloo"]]
    assert [row[-2:] for row in second] == [["1", "1"]] * 2 and second[1][-3] == "-"
    for name in ("timeline", "tail"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "timeline.csv") as file:
        lines = list(csv.DictReader(file))
    assert [line["outcome"] for line in lines if line["backend"] == "gloo"] == ["ok"] * 20 + [
        "failed"
    ] * 3
    assert len([line for line in lines if line["backend"] == "papilio"]) == 40


def test_a_freeze_that_ends_and_a_straggler():
    frozen = bench(
        *(*_SMALL, "--interleave", "papilio,gloo", "-n", "60", "--deadline", "0.1"),
        *("--fault", "freeze@2:20:2s", "-J", "-"),
    )
    assert frozen.returncode == 0, frozen.stderr
    rows = _rows(frozen)
    assert rows["gloo"]["stats"]["max"] > 1.8e6, "Gloo waits for as long as it lasts"
    assert rows["gloo"]["faulted"]["ok"] == 60 and rows["gloo"]["faulted"]["failed"] == 0
    assert rows["papilio"]["stats"]["max"] < 0.9e6, "0.1 s for data, 0.25 s more for a result"
    assert rows["papilio"]["faulted"]["degraded"] > 0 == rows["papilio"]["faulted"]["failed"]
    assert 0.05 < rows["papilio"]["faulted"]["detected"] < 0.9

    late = bench(
        *(*_SMALL, "--interleave", "papilio,gloo", "-n", "24", "--deadline", "0.05"),
        *("--straggler", "rank=2:delay=150ms", "-J", "-"),
    )
    assert late.returncode == 0, late.stderr
    rows = _rows(late)
    assert rows["gloo"]["stats"]["p50"] > 140_000 > 70_000 > rows["papilio"]["stats"]["p50"]
    assert rows["papilio"]["faulted"]["included"] < 0.9
    assert rows["gloo"]["faulted"]["faults"][0]["fired"] >= 23
    assert rows["all"]["summary"]["wrong"] == 0


def test_exit_status_of_what_did_not_happen_and_of_a_backend_that_fails():
    runs = {
        "unfired": (*("--fault", "freeze@2:9+30s", "-n", "10"),),
        "failing": (*("--backend", "gloo", "--fault", "exit@2:5", "-n", "10"),),
        "lost": (
            *("--import", "bench_backends", "--backend", "stuck", "--fault", "hang@2:0:1ms"),
            *("-n", "10", "-T", "4", "-w", "1"),
        ),
    }
    with ThreadPoolExecutor(3) as pool:
        done = dict(
            zip(
                runs,
                pool.map(lambda a: bench(*_SMALL, *a, "-J", "-"), runs.values()),
                strict=True,
            )
        )
    status = {name: run.returncode for name, run in done.items()}
    assert status == {"unfired": 5, "failing": 3, "lost": 3}, [d.stderr for d in done.values()]
    assert "freeze@2:9+30s" in json.loads(done["unfired"].stdout)["verdict"]
    assert "3 calls of 65536 bytes failed" in json.loads(done["failing"].stdout)["verdict"]
    lost = json.loads(done["lost"].stdout)["results"][0]["faulted"]["lost"]
    assert lost == {"1": "did not come back within the limit (-T)"}


def test_a_wrong_result_under_a_fault_is_a_wrong_result():
    done = bench(
        *(*_SMALL, "--import", "bench_backends", "--backend", "one-off", "-n", "10"),
        *("--fault", "hang@2:5:1ms", "-J", "-"),
    )
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["results"][0]["wrong"] == 4, "calls 5, 6, 7 and 9, on rank 1"


class _Dying:
    """Ranks of a run in which rank 2 has said that it ends, the others are done, and it takes long:
    its side of the channel closes only when the supervisor looks again."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self._theirs = [socket.socketpair() for _ in range(3)]
        for number, (ours, _) in enumerate(self._theirs):
            process = SimpleNamespace(pid=0, exitcode=0, join=lambda timeout: None)
            rank = SimpleNamespace(number=number, process=process, channel=Channel(ours))
            self.selector.register(ours, selectors.EVENT_READ, rank)
        self._say(2, {"fired": 0, "at": 1.0})
        for rank in (0, 1):
            self._say(rank, {"calls": []})
        looks, self.selector.select = self.selector.select, self._select
        self._looks, self._count = looks, 0

    def _say(self, rank, message):
        Channel(self._theirs[rank][1]).send(message)

    def _select(self, timeout):
        self._count += 1
        if self._count == 2:
            self._theirs[2][1].close()
        return self._looks(timeout)


def test_a_death_that_takes_longer_than_the_calls_of_the_others_is_still_proven():
    plan = [Fault.parse("exit@2:5")]
    seen = faulted._Collector(_Dying(), plan, [0, 1]).run(time.monotonic() + 20)
    assert seen.proven == {0} and not seen.lost and sorted(seen.answers) == [0, 1]
