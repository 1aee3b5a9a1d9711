"""``python -m papilio.top``: what it shows of a running job, and that nothing stays behind."""

import os
import signal
import socket
import struct
import subprocess
import sys
import types

import pytest
from cluster import REPOSITORY, Cluster, wait_until

from papilio import top

LOOP = """
print('{"running": true}', flush=True)
end = time.monotonic() + 60
while time.monotonic() < end and not os.path.exists(%r):
    time.sleep(0.02)
    dist.all_reduce(torch.ones(1 << 16))
"""


def show(job: str, *arguments) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "papilio.top", "--once", "-i", "0.5", "--job", job, *arguments],
        env=os.environ | {"PYTHONPATH": REPOSITORY},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def rows(text: str) -> dict:
    """rank -> columns by name, of the only group."""
    lines = text.splitlines()
    head = next(n for n, line in enumerate(lines) if line.startswith("rank"))
    assert max(map(len, lines)) <= 120
    names = [text[a:b].strip() for text, a, b in _columns(lines[head])]
    found = {}
    for line in lines[head + 1 :]:
        if not line.strip() or line.startswith("!!"):
            break
        cells = line.split()
        found[int(cells[0])] = dict(zip(names, cells, strict=True))
    return found


def _columns(head: str):
    """Names with a blank in them, such as "last ms", are one column."""
    names = ["rank", "pid", "state", "seq", "rounds/s", "MB/s", "degr", "local"]
    names += ["last ms", "lag ms", "rtt ms", "in MB/s", "lane"]
    for name in names:
        at = head.index(name)
        yield head, at, at + len(name)


@pytest.mark.timeout(120)
def test_a_running_job_a_stopped_and_a_dead_rank(tmp_path):
    end = str(tmp_path / "end")
    with Cluster(3, patience=0.3) as ranks:
        job = f"127.0.0.1:{ranks.port}"
        for rank in ranks:
            rank.send("collective", source=LOOP % end)
        for rank in ranks:
            assert rank.receive()["running"]
        status, text = show(job)
        seen = rows(text)
        assert status == 0 and f"job {job}, 3 processes" in text and "group world, 3 ranks" in text
        for rank in ranks:
            row = seen[rank.rank]
            assert (row["pid"], row["state"], row["lane"]) == (str(rank.pid), "live", "shm"), text
            assert float(row["rounds/s"]) > 2 and float(row["MB/s"]) > 0 and int(row["seq"]) > 1
            assert (row["degr"], row["local"]) == ("0", "0")

        ranks[2].signal(signal.SIGSTOP)
        wait_until(lambda: rows(show(job)[1])[0]["degr"] != "0", what="rounds without rank 2")
        text = show(job)[1]
        assert rows(text)[2]["state"] == "stopped" and rows(text)[2]["pid"] == str(ranks[2].pid)
        assert f"!! rank 2 is stopped (SIGSTOP, or a terminal): kill -CONT {ranks[2].pid}" in text

        ranks[2].kill()
        wait_until(lambda: rows(show(job)[1])[2]["state"] == "dead", what="rank 2 is dead")
        assert rows(show(job)[1])[2]["pid"] == "-"
        open(end, "w").close()
        for rank in (0, 1):
            assert ranks[rank].receive()["ok"]
        for answer in ranks.all("destroy", ranks=[0, 1]):
            assert answer["ok"]
        wait_until(lambda: top.find(job) == [], timeout=5, what="no socket is left")
        status, text = show(job)
        assert status == 1 and f"no job {job}" in text


@pytest.mark.timeout(60)
def test_a_blacklisted_rank_and_who_says_so():
    with Cluster(3) as ranks:
        ranks.run("dist.all_reduce(torch.ones(10))\nif rank == 0: papilio.ban(1, seconds=50)")
        text = show(f"127.0.0.1:{ranks.port}")[1]
        assert rows(text)[1]["state"] == "blacklisted"
        (note,) = [line for line in text.splitlines() if line.startswith("!!")]
        assert note.startswith("!! rank 0 blacklists rank 1: manual, ") and "s more" in note


@pytest.mark.timeout(60)
def test_another_user_learns_nothing(monkeypatch):
    with Cluster(2) as ranks:
        names = [name for *_, name in top.find(f"127.0.0.1:{ranks.port}")]
        assert len(names) == 2 and top._ask(names[0])["groups"]
        if os.getuid() == 0:  # root can become somebody else
            script = (
                "import os, socket\nos.setuid(65534)\nlink = socket.socket(socket.AF_UNIX)\n"
                f"link.settimeout(5)\nlink.connect('\\0' + {names[0]!r})\n"
                "try:\n    data = link.recv(100)\nexcept ConnectionResetError:\n    data = b''\n"
                "print(len(data))\n"
            )
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
            assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    monkeypatch.setattr(
        os, "getuid", lambda: 4321
    )  # to this process everybody else is another user
    assert top._ask(names[0]) is None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    credentials = struct.pack("3i", os.getpid(), 65534, 65534)
    fake = types.SimpleNamespace(
        getsockopt=lambda *_: credentials, settimeout=ours.settimeout, sendall=ours.sendall
    )
    top._glance._answer(fake, types.SimpleNamespace(open_groups=lambda: ["secret"]))
    ours.close()
    assert theirs.recv(100) == b""
    theirs.close()


def test_garbage_behind_a_name_is_no_answer():
    name = f"{top._glance.PREFIX}{os.getuid()}:nowhere:1:0:{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen(1)
        assert [(job, rank) for job, rank, *_ in top.find("nowhere:1")] == [("nowhere:1", 0)]
        (process,) = top.look("nowhere:1")  # it never answers
        assert process.groups == [] and process.when == 0
        text = "\n".join(top.View().lines([process]))
        assert "nobody answers" in text and str(os.getpid()) in text
    assert top.find("nowhere:1") == []


def test_a_rank_that_is_not_let_in_yet_is_no_witness():
    def process(views: float, state: str):
        peers = [{"rank": 0, "state": state}, {"rank": 1, "state": "self"}]
        group = {"name": "world", "stats": {"views": views}, "peers": peers}
        return types.SimpleNamespace(groups=[group])

    alone, member = process(0.0, "left"), process(2.0, "live")
    assert top._opinions("world", [alone, member]) == {0: [{"rank": 0, "state": "live"}]}
