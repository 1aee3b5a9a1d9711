"""The launcher: what ranks get, what it says, how it ends. The ranks here know nothing of torch."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest
from cluster import REPOSITORY, wait_until

from papilio import run

pytestmark = pytest.mark.timeout(60)

HEAD = """
import os, signal, sys, time, pathlib
rank, here = int(os.environ["RANK"]), pathlib.Path(__file__).parent
def mark(name): (here / name).write_text(str(os.getpid()))
def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
def seen(name): return (here / name).exists() and (here / name).read_text() != ""
def launcher(number): os.kill(os.getppid(), number)
"""


@pytest.fixture
def launch(tmp_path, capsys):
    """``launch(body, "-n", "2", ...)``: exit status, stdout and stderr of a launcher in here."""

    def call(body: str, *options: str, arguments=()):
        script = tmp_path / "script.py"
        script.write_text(HEAD + textwrap.dedent(body))
        status = run.main([*options, str(script), *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_ranks_get_their_environment_and_arguments(launch):
    body = """
    names = "LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR TORCHELASTIC_USE_AGENT_STORE"
    print(*[os.environ[name] for name in names.split()], *sys.argv[1:], repr(sys.stdin.read()))
    print("to stderr", file=sys.stderr)
    """
    status, out, err = launch(body, "-n", "3", arguments=["--steps", "5", "-n", "9"])
    assert status == 0
    expected = [f"[rank {r}] {r} 3 3 127.0.0.1 True --steps 5 -n 9 ''" for r in range(3)]
    assert sorted(out.splitlines()) == expected
    assert sorted(x for x in err.splitlines() if x.startswith("[")) == [
        f"[rank {r}] to stderr" for r in range(3)
    ]
    assert re.search(r"ranks 0 = pid \d+, 1 = pid \d+, 2 = pid \d+", err)


ONE_FAILS = """
if rank == 1:
    mark("pid"); print("last words", end=""); sys.stdout.flush(); os._exit(3)
wait_for(lambda: seen("pid"))
pid = int((here / "pid").read_text())
wait_for(lambda: not os.path.exists(f"/proc/{pid}"))  # reaped: the launcher knows
print("still here")
"""


@pytest.mark.parametrize("keep_going", [False, True])
def test_one_failing_rank_stops_nobody(launch, keep_going):
    status, out, err = launch(ONE_FAILS, "-n", "3", *(["--keep-going"] if keep_going else []))
    assert status == (0 if keep_going else run.EXIT_SOME_FAILED)
    assert "[rank 0] still here\n" in out and "[rank 2] still here\n" in out
    assert "[rank 1] last words\n" in out
    assert re.search(r"rank 1 \(pid \d+\): exit status 3 after \d+\.\d s; the other 2 go on", err)
    assert "papilio.run: rank 1: exit status 3" in err and "rank 0: exit status 0" in err


def test_all_failed(launch):
    status, _, err = launch("os.kill(os.getpid(), signal.SIGKILL)", "-n", "2", "--keep-going")
    assert status == run.EXIT_ALL_FAILED
    assert err.count("killed by SIGKILL after") == 2


def test_script_that_cannot_start(launch):
    status, _, err = launch("def (:", "-n", "2")
    assert status == run.EXIT_ALL_FAILED
    assert "[rank 0]" in err and "SyntaxError" in err


@pytest.mark.parametrize(("restarts", "expected"), [(2, 0), (1, run.EXIT_SOME_FAILED)])
def test_restarts(launch, restarts, expected):
    body = """
    count = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    print("attempt", count)
    sys.exit(7 if rank == 1 and count < 2 else 0)
    """
    status, out, err = launch(body, "-n", "2", "--restarts", str(restarts))
    assert status == expected
    attempts = [x for x in out.splitlines() if x.startswith("[rank 1]")]
    assert attempts == [f"[rank 1] attempt {i}" for i in range(restarts + 1)]
    assert f"restart 1 of {restarts}" in err
    assert f"rank 1: exit status {0 if expected == 0 else 7}" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_all_ranks_even_a_stopped_one(launch, number):
    body = f"""
    def handler(number, frame):
        print("got", signal.Signals(number).name, flush=True); os._exit(0)
    signal.signal({int(number)}, handler)
    mark(f"ready{{rank}}")
    if rank == 1: os.kill(os.getpid(), signal.SIGSTOP)
    def stopped(): return "State:\\tT" in open(f"/proc/{{(here / 'ready1').read_text()}}/status").read()
    if rank == 0:
        wait_for(lambda: seen("ready1") and seen("ready2") and stopped())
        launcher({int(number)})
    wait_for(lambda: False)
    """  # noqa: E501
    status, out, err = launch(body, "-n", "3", "--restarts", "5")
    name = signal.Signals(number).name
    assert status == 128 + number
    assert sorted(out.splitlines()) == [f"[rank {r}] got {name}" for r in range(3)]
    assert f"received {name}, passed on to 3 ranks" in err and "restart " not in err


DEAF = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
mark(f"ready{rank}")
if rank == 0:
    wait_for(lambda: seen("ready1"))
    launcher(signal.SIGTERM)
    %s
wait_for(lambda: False)
"""


def test_deaf_ranks_are_killed_after_the_grace(launch, monkeypatch):
    monkeypatch.setattr(run, "_GRACE", 0.5)
    status, _, err = launch(DEAF % "pass", "-n", "2")
    assert status == 128 + signal.SIGTERM
    assert err.count("killed by SIGKILL") == 4  # when it happens and in the summary


def test_second_signal_kills_at_once(launch):
    start = time.monotonic()
    again = "time.sleep(0.3); launcher(signal.SIGINT)"  # two signals at once would merge
    status, _, err = launch(DEAF % again, "-n", "2")
    assert status == 128 + signal.SIGTERM
    assert "received SIGINT again, killing 2 ranks" in err
    assert time.monotonic() - start < run._GRACE / 2


def test_output_of_any_kind_passes(launch):
    body = r"""
    if rank == 0:
        sys.stdout.buffer.write(b"bad \xff byte\r\n" + b"x" * 3000000 + b"\nno newline at the end")
    """
    status, out, _ = launch(body, "-n", "2")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "[rank 0] bad \ufffd byte" and lines[-1] == "[rank 0] no newline at the end"
    assert sum(line.count("x") for line in lines[1:-1]) == 3000000


def test_what_a_rank_leaves_running_is_killed(launch, tmp_path):
    body = """
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (here / "orphan").write_text(str(child.pid))
    os._exit(0)
    """
    start = time.monotonic()
    status, _, _ = launch(body, "-n", "1")
    assert status == 0 and time.monotonic() - start < 20
    orphan = int((tmp_path / "orphan").read_text())
    wait_until(lambda: gone(orphan), what="end of the orphan")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-n", "0", "x.py"], "-n 0: must be between 1 and 256"),
        (["-n", "257", "x.py"], "-n 257"),
        (["-n", "two", "x.py"], "invalid int value: 'two'"),
        (["-n", "2", "--restarts", "-1", "x.py"], "--restarts -1"),
        (["-n", "2", "--port", "70000", "x.py"], "--port 70000"),
        (["-n", "2", "no/such/file.py"], "'no/such/file.py' does not exist"),
        (["-n", "2", "--unknown", "x.py"], "--unknown"),
        (["-n", "2"], "script"),
        (["x.py"], "-n/--nproc"),
    ],
)
def test_bad_arguments(arguments, says, capsys):
    with pytest.raises(SystemExit) as stop:
        run.main(arguments)
    assert stop.value.code == run.EXIT_USAGE
    assert says in capsys.readouterr().err


def test_help_explains_the_exit_status(capsys):
    with pytest.raises(SystemExit) as stop:
        run.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for word in ("--restarts", "--keep-going", "exit status:", "128 + N", "69", "SIGTERM"):
        assert word in text


def test_port_in_use_and_port_of_choice(launch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, err = launch("pass", "-n", "1", "--port", str(port))
        assert status == run.EXIT_CANNOT_START
        assert f"cannot listen on port {port}" in err and "--port" in err
    status, out, _ = launch('print(os.environ["MASTER_PORT"])', "-n", "1", "--port", str(port))
    assert (status, out) == (0, f"[rank 0] {port}\n")


def test_ranks_die_with_a_killed_launcher(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(HEAD + 'mark(f"rank{rank}")\nwait_for(lambda: False)\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "papilio.run", "-n", "2", str(script)],
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
    )
    files = [tmp_path / f"rank{r}" for r in range(2)]
    wait_until(lambda: all(f.exists() and f.read_text() for f in files), timeout=40, what="ranks")
    pids = [int(file.read_text()) for file in files]
    assert not any(gone(pid) for pid in pids)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: all(gone(pid) for pid in pids), what="end of the ranks")


def test_a_rank_restarted_in_mid_run_ends_at_once(launch):
    """Real ranks: the group goes on without it, and it says how it could come back."""
    body = """
    import torch, torch.distributed as dist
    dist.init_process_group("papilio")
    for step in range(10):
        if rank == 1 and step == 5: os._exit(9)
        dist.all_reduce(torch.ones(100))
    dist.destroy_process_group()
    print("finished")
    """
    status, out, err = launch(body, "-n", "3", "--restarts", "1")
    assert status == run.EXIT_SOME_FAILED, err
    assert "[rank 0] finished" in out and "[rank 2] finished" in out and "[rank 1]" not in out
    assert "rank 1 was restarted while the others went on" in err and "papilio.attach(" in err


def test_a_restarted_rank_comes_back_into_the_run(launch):
    body = """
    import torch, torch.distributed as dist, papilio
    dist.init_process_group("papilio", pg_options=papilio.Options(patience=5.0))
    weight = torch.nn.Parameter(torch.zeros(1000))
    model = torch.nn.ParameterList([weight])
    optimizer = torch.optim.SGD([weight], lr=1.0)
    job = papilio.attach(model, optimizer)
    restarted = os.environ["PAPILIO_REJOIN"] == "1"
    deadline = time.monotonic() + 50
    # As long as it takes until rank 1 is back, and 20 steps more.
    while not seen("end") or job.step < int((here / "end").read_text()):
        assert time.monotonic() < deadline
        if rank == 1 and not restarted and job.step == 5: os.kill(os.getpid(), signal.SIGKILL)
        weight.grad = torch.full((1000,), 1.0)
        dist.all_reduce(weight.grad, op=dist.ReduceOp.AVG)
        before = job.joined
        optimizer.step()
        if job.joined and not before:
            (here / "new").write_text(str(job.step + 200))
            (here / "new").rename(here / "end")
        time.sleep(0.01)
    assert torch.equal(weight, torch.full((1000,), -float(job.step))), (weight[0], job.step)
    print("finished", restarted)
    dist.destroy_process_group()
    """
    status, out, err = launch(body, "-n", "3", "--restarts", "1")
    assert status == 0, err
    for rank, restarted in ((0, False), (1, True), (2, False)):
        assert f"[rank {rank}] finished {restarted}" in out
    assert "begins after step" in err and "new: 1" in err
