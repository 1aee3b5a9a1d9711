"""Real ranks under test: processes that take commands on stdin and answer on stdout, JSON by line.

The parent hosts the store, so that any rank may be killed. Inputs are integer-valued functions of
(rank, salt, index): every sum is exact, and the oracle below knows them without asking anybody.
"""

import atexit
import contextlib
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import torch.distributed as dist

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(HERE))


class RankDied(Exception):
    """The rank's process ended before it answered."""


class Zygote:
    """The process that forks ranks (zygote.py). One for the whole test run."""

    _instance = None

    def __init__(self):
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": REPOSITORY + os.pathsep + HERE,
        }
        self._process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "zygote.py"), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()
        self._socket.settimeout(120)
        atexit.register(self.end)

    @classmethod
    def get(cls) -> "Zygote":
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def _ask(self, request: dict, descriptors: list) -> dict:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            return json.loads(self._socket.recv(1 << 16))

    def fork(self, environment: dict, descriptors: list) -> int:
        return self._ask({"fork": environment}, descriptors)["pid"]

    def load(self, module: str) -> None:
        """Imports it before the next rank is forked, so that ranks need not."""
        self._ask({"import": module}, [])

    def reap(self, pid: int) -> int:
        return self._ask({"reap": pid}, [])["status"]

    def end(self) -> None:
        self._socket.close()
        self._process.wait()


class Rank:
    """One process. ``send`` starts a command, ``receive`` waits for its answer."""

    def __init__(self, rank: int, environment: dict):
        self.rank = rank
        ours, theirs = [], []
        for parent_reads in (False, True, True):
            read, write = os.pipe()
            ours.append(read if parent_reads else write)
            theirs.append(write if parent_reads else read)
        self.pid = Zygote.get().fork(environment, theirs)
        for descriptor in theirs:
            os.close(descriptor)
        self._pidfd = os.pidfd_open(self.pid)
        self.status: int | None = None  # exit code, once it has ended
        self._stdin = os.fdopen(ours[0], "w")
        self.errors: list = []
        self._answers: queue.SimpleQueue = queue.SimpleQueue()
        for target, descriptor in ((self._read_answers, ours[1]), (self._read_errors, ours[2])):
            threading.Thread(target=target, args=(os.fdopen(descriptor),), daemon=True).start()

    def _read_answers(self, pipe):
        with pipe:
            for line in pipe:
                self._answers.put(json.loads(line))
        self._answers.put(None)

    def _read_errors(self, pipe):
        with pipe:
            for line in pipe:
                self.errors.append(line)

    def send(self, command: str, **arguments) -> None:
        self._stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self._stdin.flush()

    def receive(self, timeout: float = 60):
        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(
                f"rank {self.rank} did not answer within {timeout} s; stderr:\n"
                + "".join(self.errors[-40:])
            ) from None
        if answer is None:
            raise RankDied(f"rank {self.rank} ended; stderr:\n" + "".join(self.errors[-40:]))
        return answer

    def call(self, command: str, timeout: float = 60, **arguments):
        self.send(command, **arguments)
        return self.receive(timeout)

    def run(self, source: str, timeout: float = 60):
        """The Python text on this rank; what it left in ``result``."""
        answer = self.call("collective", timeout, source=source)
        assert answer["ok"], answer.get("trace", answer)
        return answer["result"]

    def answered(self) -> bool:
        """Is there an answer that nobody has received yet?"""
        return not self._answers.empty()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)  # not reaped before `wait`: the pid is still its own

    def wait(self, timeout: float = 20) -> int:
        """Exit code, negative for a signal; TimeoutError when it does not end."""
        if self.status is None:
            if not select.select([self._pidfd], [], [], timeout)[0]:
                raise TimeoutError(f"rank {self.rank} has not ended after {timeout} s")
            self.status = Zygote.get().reap(self.pid)
        return self.status

    def kill(self) -> float:
        """SIGKILL; returns the moment before it (CLOCK_MONOTONIC, the same in all processes)."""
        moment = time.monotonic()
        self.signal(signal.SIGKILL)
        self.wait()
        return moment

    def end(self) -> None:
        if self.status is None:
            self.signal(signal.SIGKILL)
            self.wait()
        os.close(self._pidfd)
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """``with Cluster(4) as ranks: ...``: n ranks in one group named by ``init``."""

    def __init__(self, n: int, init: bool = True, store_in_rank0: bool = False, **options):
        self.n = n
        self.options = options
        self.init = init
        self.store = None
        port = free_port() if store_in_rank0 else 0
        if not store_in_rank0:
            self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            port = self.store.port
        self.port = port
        environment = os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(n),
            "TORCHELASTIC_USE_AGENT_STORE": "True" if self.store else "False",
        }
        environment.update(options.pop("environment", {}))
        own = options.pop("environments", [{}] * n)  # by rank
        self._environments = [
            environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | own[rank]
            for rank in range(n)
        ]
        self.ranks = [Rank(rank, mine) for rank, mine in enumerate(self._environments)]

    def __enter__(self):
        if self.init:
            self.start()
        return self

    def start(self):
        for answer in self.all("init", timeout=90, options=self.options):
            assert answer["ok"], answer

    def start_again(self, rank: int, rejoin: str) -> dict:
        """A new process in the slot of one that has ended; what its init answers."""
        self.ranks[rank].end()
        self.ranks[rank] = Rank(rank, self._environments[rank] | {"PAPILIO_REJOIN": rejoin})
        return self.ranks[rank].call("init", options=self.options)

    def restart(self, rank: int) -> None:
        """The same, for one that comes back into the group."""
        answer = self.start_again(rank, "1")
        assert answer["ok"], answer

    def __exit__(self, *_):
        for rank in self.ranks:
            rank.end()

    def __getitem__(self, rank: int) -> Rank:
        return self.ranks[rank]

    def __iter__(self):
        return iter(self.ranks)

    def run(self, source: str, ranks=None, timeout: float = 60) -> list:
        """The Python text on all (or these) ranks at once; what it left in ``result``, in order."""
        answers = self.all("collective", ranks=ranks, timeout=timeout, source=source)
        for answer in answers:
            assert answer["ok"], answer.get("trace", answer)
        return [answer["result"] for answer in answers]

    def all(self, command: str, ranks=None, timeout: float = 60, **arguments) -> list:
        """The command on all (or these) ranks at once; answers in order."""
        chosen = [self.ranks[r] for r in ranks] if ranks is not None else self.ranks
        for rank in chosen:
            rank.send(command, **arguments)
        return [rank.receive(timeout) for rank in chosen]


SOAK = os.environ.get("PAPILIO_TEST_SOAK", "") not in ("", "0")  # `make soak`: the long versions


def wait_until(condition, timeout: float = 20, what: str = "condition"):
    """Polls until ``condition()`` is true; fails after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"{what} not reached within {timeout} s")
