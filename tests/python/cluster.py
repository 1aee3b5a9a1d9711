"""Real ranks under test: processes that take commands on stdin and answer on stdout, JSON by line.

The parent hosts the store, so that any rank may be killed. Inputs are integer-valued functions of
(rank, salt, index): every sum is exact, and the oracle below knows them without asking anybody.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time

import torch.distributed as dist

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(HERE))


class RankDied(Exception):
    """The rank's process ended before it answered."""


class Rank:
    """One process. ``send`` starts a command, ``receive`` waits for its answer."""

    def __init__(self, rank: int, environment: dict):
        self.rank = rank
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.errors: list = []
        self._answers: queue.SimpleQueue = queue.SimpleQueue()
        for target in (self._read_answers, self._read_errors):
            threading.Thread(target=target, daemon=True).start()

    def _read_answers(self):
        for line in self.process.stdout:
            self._answers.put(json.loads(line))
        self._answers.put(None)

    def _read_errors(self):
        for line in self.process.stderr:
            self.errors.append(line)

    def send(self, command: str, **arguments) -> None:
        self.process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self.process.stdin.flush()

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

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()


class Cluster:
    """``with Cluster(4) as ranks: ...``: n ranks in one group named by ``init``."""

    def __init__(self, n: int, init: bool = True, store_in_rank0: bool = False, **options):
        self.n = n
        self.options = options
        self.init = init
        self.store = None
        port = 0
        if not store_in_rank0:
            self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            port = self.store.port
        self.port = port
        environment = os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(n),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": REPOSITORY + os.pathsep + HERE,
            "TORCHELASTIC_USE_AGENT_STORE": "True" if self.store else "False",
        }
        environment.update(options.pop("environment", {}))
        self.ranks = [
            Rank(rank, environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(n)
        ]

    def __enter__(self):
        if self.init:
            self.start()
        return self

    def start(self):
        for answer in self.all("init", timeout=90, options=self.options):
            assert answer["ok"], answer

    def __exit__(self, *_):
        for rank in self.ranks:
            rank.end()

    def __getitem__(self, rank: int) -> Rank:
        return self.ranks[rank]

    def __iter__(self):
        return iter(self.ranks)

    def all(self, command: str, ranks=None, timeout: float = 60, **arguments) -> list:
        """The command on all (or these) ranks at once; answers in order."""
        chosen = [self.ranks[r] for r in ranks] if ranks is not None else self.ranks
        for rank in chosen:
            rank.send(command, **arguments)
        return [rank.receive(timeout) for rank in chosen]


def wait_until(condition, timeout: float = 20, what: str = "condition"):
    """Polls until ``condition()`` is true; fails after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"{what} not reached within {timeout} s")
