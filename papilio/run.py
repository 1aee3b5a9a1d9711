"""``python -m papilio.run -n 4 train.py ...``: n ranks on this host, one failing rank stops nobody.

The launcher hosts the store, so every rank may die. Output lines carry the rank; SIGINT and SIGTERM
are forwarded; dead ranks may be restarted. Exit status: 0 when all ranks ended well, 1 when some
failed, 2 when all failed, 64 for wrong arguments, 128 + signal when the launcher was told to stop.
"""

import argparse
import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

_GRACE = 10.0  # seconds between SIGTERM and SIGKILL
_PR_SET_PDEATHSIG = 1


@dataclasses.dataclass
class _Child:
    rank: int
    process: subprocess.Popen
    started: float
    restarts: int = 0
    ended: float | None = None
    readers: list = dataclasses.field(default_factory=list)


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m papilio.run",
        description="Starts n ranks of a training script on this host.",
        epilog="Everything after the script belongs to the script.",
    )
    parser.add_argument("-n", "--nproc", type=int, required=True, help="number of ranks")
    parser.add_argument(
        "--restarts", type=int, default=0, metavar="K", help="restart a dead rank up to K times"
    )
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="exit 0 as long as one rank ended well (for jobs that survive their dead)",
    )
    parser.add_argument("-m", "--module", action="store_true", help="the script is a module name")
    parser.add_argument("script", help="training script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    options = parser.parse_args(arguments)
    if not 1 <= options.nproc <= 256:
        parser.error(f"-n {options.nproc}: must be between 1 and 256")
    if options.restarts < 0:
        parser.error(f"--restarts {options.restarts}: must not be negative")
    if not options.module and not os.path.isfile(options.script):
        parser.error(f"script {options.script!r} does not exist")
    return options


def _die_with_parent():
    """Runs in the child: a launcher that is killed takes its ranks along."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _describe(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


class Launcher:
    """Starts and watches the ranks. ``run()`` returns the exit status."""

    def __init__(self, options):
        from torch.distributed import TCPStore

        self.options = options
        self.children: dict[int, _Child] = {}
        self.stop_signal: int | None = None
        self._output = threading.Lock()
        # A port of the system's choice; ranks are clients of this store (see _environment).
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def _environment(self, rank: int, restarts: int) -> dict:
        return os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.store.port),
            # Makes env:// rendezvous a client of our store even on rank 0.
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": str(restarts),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(self.options.nproc),
            "LOCAL_WORLD_SIZE": str(self.options.nproc),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }

    def _start(self, rank: int, restarts: int = 0) -> None:
        command = [sys.executable]
        command += ["-m", self.options.script] if self.options.module else [self.options.script]
        process = subprocess.Popen(
            command + self.options.arguments,
            env=self._environment(rank, restarts),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=_die_with_parent,
        )
        child = _Child(rank, process, time.monotonic(), restarts)
        for pipe, sink in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            reader = threading.Thread(target=self._forward, args=(rank, pipe, sink), daemon=True)
            reader.start()
            child.readers.append(reader)
        self.children[rank] = child

    def _forward(self, rank, pipe, sink) -> None:
        for line in iter(pipe.readline, b""):
            with self._output:
                sink.write(f"[rank {rank}] {line.decode(errors='replace').rstrip()}\n")
                sink.flush()

    def _say(self, text: str) -> None:
        with self._output:
            print(f"papilio.run: {text}", file=sys.stderr, flush=True)

    def _on_signal(self, number, _frame) -> None:
        self.stop_signal = number

    def _watch_one(self, child: _Child) -> None:
        status = child.process.poll()
        if status is None or child.ended is not None:
            return
        child.ended = time.monotonic()
        for reader in child.readers:
            reader.join(timeout=5)
        if status == 0:
            return
        again = child.restarts < self.options.restarts and self.stop_signal is None
        self._say(
            f"rank {child.rank} (pid {child.process.pid}): {_describe(status)} after "
            f"{child.ended - child.started:.1f} s; "
            + (
                f"restart {child.restarts + 1} of {self.options.restarts}"
                if again
                else "the others go on"
            )
        )
        if again:
            self._start(child.rank, child.restarts + 1)

    def _running(self) -> list:
        return [c for c in self.children.values() if c.ended is None]

    def _forward_stop(self) -> None:
        self._say(f"received {signal.Signals(self.stop_signal).name}, stopping all ranks")
        for child in self._running():
            child.process.send_signal(signal.SIGCONT)
            child.process.send_signal(self.stop_signal)

    def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        for rank in range(self.options.nproc):
            self._start(rank)
        self._say(
            "ranks " + ", ".join(f"{c.rank} = pid {c.process.pid}" for c in self.children.values())
        )
        deadline = None
        while self._running():
            for child in list(self.children.values()):
                self._watch_one(child)
            if self.stop_signal is not None and deadline is None:
                self._forward_stop()
                deadline = time.monotonic() + _GRACE
            if deadline is not None and time.monotonic() > deadline:
                for child in self._running():
                    child.process.kill()
            time.sleep(0.02)
        return self._summary()

    def _summary(self) -> int:
        failed = 0
        for child in sorted(self.children.values(), key=lambda c: c.rank):
            status = child.process.returncode
            failed += status != 0
            self._say(
                f"rank {child.rank}: {_describe(status)}, {child.ended - child.started:.1f} s"
                + (f", restarts {child.restarts}" if child.restarts else "")
            )
        if self.stop_signal is not None:
            return 128 + self.stop_signal
        if failed == 0 or (self.options.keep_going and failed < self.options.nproc):
            return 0
        return 2 if failed == self.options.nproc else 1


def main(arguments=None) -> int:
    try:
        options = _parse(arguments)
    except SystemExit as error:
        return 64 if error.code else 0
    return Launcher(options).run()


if __name__ == "__main__":
    sys.exit(main())
