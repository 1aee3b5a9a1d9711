"""``python -m papilio.run -n 4 train.py ...``: n ranks on this host, one failing rank stops nobody.

The launcher hosts the store, so any rank may die, rank 0 too. It is one thread around one wait
point: pipes of the ranks, signals and child exits. See ``--help`` for the exit status.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import os
import selectors
import signal
import subprocess
import sys
import time

_GRACE = 10.0  # seconds between the forwarded signal and SIGKILL
_PR_SET_PDEATHSIG = 1
_CHUNK = 1 << 16  # bytes of output read at once
_LONGEST_LINE = 1 << 20  # bytes; a longer line is passed on in pieces

EXIT_SOME_FAILED = 1
EXIT_ALL_FAILED = 2
EXIT_USAGE = 64
EXIT_CANNOT_START = 69

_EPILOG = f"""\
Everything after the script belongs to the script. Every rank gets RANK, LOCAL_RANK, WORLD_SIZE,
LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as under torchrun; stdin is empty. Its output lines
are passed on with "[rank R] " in front. A rank that ends does not stop the others. A rank that is
restarted (--restarts) comes back into the running job if the script calls papilio.attach().

signals:
  SIGINT and SIGTERM are forwarded to all ranks, stopped ones too, and end the restarts; who is
  still there {_GRACE:.0f} s later, or at a second signal, is killed. If the launcher itself is
  killed, its ranks die with it. What a rank leaves running in its process group is killed.

exit status:
  0        every rank ended with status 0 (with --keep-going: at least one did)
  {EXIT_SOME_FAILED}        some ranks failed, the others ended well
  {EXIT_ALL_FAILED}        all ranks failed
  {EXIT_USAGE}       wrong arguments
  {EXIT_CANNOT_START}       the store or a rank could not be started
  128 + N  the launcher was told to stop by signal N
"""


class _Parser(argparse.ArgumentParser):
    """argparse with this program's exit status for wrong arguments."""

    def error(self, message):
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def _parse(arguments):
    parser = _Parser(
        prog="python -m papilio.run",
        description="Starts n ranks of a training script on this host.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-n", "--nproc", type=int, required=True, help="number of ranks, 1 to 256")
    parser.add_argument(
        "--restarts", type=int, default=0, metavar="K", help="restart a failed rank up to K times"
    )
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="exit 0 as long as one rank ended well (for jobs that survive their dead)",
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port of the store (default: a free one)"
    )
    parser.add_argument("-m", "--module", action="store_true", help="the script is a module name")
    parser.add_argument("script", help="training script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    options = parser.parse_args(arguments)
    if not 1 <= options.nproc <= 256:
        parser.error(f"-n {options.nproc}: must be between 1 and 256")
    if options.restarts < 0:
        parser.error(f"--restarts {options.restarts}: must not be negative")
    if not 0 <= options.port <= 65535:
        parser.error(f"--port {options.port}: must be between 0 (any free port) and 65535")
    if not options.module and not os.path.isfile(options.script):
        parser.error(f"script {options.script!r} does not exist")
    return options


class CannotStart(Exception):
    """The store or a rank could not be started; the text says why and what to do."""


def _describe(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


@dataclasses.dataclass
class _Pipe:
    """One output stream of a rank: whole lines go to ``sink``."""

    rank: int
    file: object
    sink: object
    rest: bytes = b""

    def read(self) -> bool:
        """Passes on what is there; False at the end of the stream."""
        try:
            data = os.read(self.file.fileno(), _CHUNK)
        except BlockingIOError:
            return True
        *lines, self.rest = (self.rest + data).split(b"\n")
        if self.rest and (not data or len(self.rest) > _LONGEST_LINE):
            lines.append(self.rest)
            self.rest = b""
        if lines:
            prefix = f"[rank {self.rank}] "
            text = "".join(
                prefix + line.decode(errors="replace").rstrip("\r") + "\n" for line in lines
            )
            _write(self.sink, text)
        return bool(data)


def _write(sink, text: str) -> None:
    # Training goes on when nobody reads its output any more.
    with contextlib.suppress(OSError, ValueError):
        sink.write(text)
        sink.flush()


@dataclasses.dataclass
class _Child:
    rank: int
    process: subprocess.Popen
    started: float  # time.monotonic()
    restarts: int = 0
    ended: float | None = None
    pipes: list = dataclasses.field(default_factory=list)

    def signal(self, number: int) -> None:
        """To the rank and to the processes it started (they share its process group)."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


class Launcher:
    """Starts and watches the ranks. ``run()`` returns the exit status; main thread only."""

    def __init__(self, options):
        self.options = options
        self.children: dict[int, _Child] = {}
        self.signals: list[int] = []  # SIGINT and SIGTERM received so far
        self._selector = selectors.DefaultSelector()
        self._libc = ctypes.CDLL(None)  # loaded before any fork
        self._store = self._start_store()

    def _start_store(self):
        from torch.distributed import TCPStore

        try:
            return TCPStore("127.0.0.1", self.options.port, is_master=True, wait_for_workers=False)
        except RuntimeError as error:
            where = f"port {self.options.port}" if self.options.port else "any port"
            raise CannotStart(
                f"the store cannot listen on {where} of 127.0.0.1 "
                f"({str(error).splitlines()[0]}); leave --port out to take a free one"
            ) from None

    def _environment(self, rank: int, restarts: int) -> dict:
        return os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._store.port),
            # Makes env:// rendezvous a client of our store even on rank 0.
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": str(restarts),
            "TORCHELASTIC_MAX_RESTARTS": str(self.options.restarts),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(self.options.nproc),
            "LOCAL_WORLD_SIZE": str(self.options.nproc),
            # A restarted rank takes the place of its predecessor (papilio.attach).
            "PAPILIO_REJOIN": "1" if restarts else "0",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }

    def _in_child(self, parent: int) -> None:
        """Between fork and exec: a launcher that is killed takes its ranks along."""
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)  # it died before the request was in place

    def _start(self, rank: int, restarts: int = 0) -> None:
        command = [sys.executable, *(["-m"] if self.options.module else []), self.options.script]
        parent = os.getpid()
        try:
            process = subprocess.Popen(
                command + self.options.arguments,
                env=self._environment(rank, restarts),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                # A group of its own: Ctrl-C on the terminal reaches it through us only, once.
                start_new_session=True,
                preexec_fn=lambda: self._in_child(parent),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise CannotStart(f"rank {rank} cannot be started: {error}") from None
        child = _Child(rank, process, time.monotonic(), restarts)
        self.children[rank] = child
        for file, sink in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            os.set_blocking(file.fileno(), False)
            pipe = _Pipe(rank, file, sink)
            child.pipes.append(pipe)
            self._selector.register(file, selectors.EVENT_READ, pipe)

    def _say(self, text: str) -> None:
        _write(sys.stderr, f"papilio.run: {text}\n")

    def _running(self) -> list:
        return [child for child in self.children.values() if child.ended is None]

    def _close(self, pipe: _Pipe) -> None:
        self._selector.unregister(pipe.file)
        pipe.file.close()

    def _reap(self, child: _Child) -> None:
        status = child.process.poll()
        if status is None:
            return
        child.ended = time.monotonic()
        child.signal(signal.SIGKILL)  # what it left running would hold devices and pipes
        # Its last words come before the news of its end.
        for pipe in child.pipes:
            if pipe.file.closed:
                continue
            while _ready(pipe.file) and pipe.read():
                pass
            self._close(pipe)
        if status == 0:
            return
        again = child.restarts < self.options.restarts and not self.signals
        if again:
            what = f"restart {child.restarts + 1} of {self.options.restarts}"
        elif self.signals:
            what = "as told"
        else:
            others = len(self._running())
            what = f"the other {others} go on" if others else "it was the last one"
        self._say(
            f"rank {child.rank} (pid {child.process.pid}): {_describe(status)} after "
            f"{child.ended - child.started:.1f} s; {what}"
        )
        if again:
            self._start(child.rank, child.restarts + 1)

    def _stop_ranks(self) -> None:
        """Forwards the first signal; the second one kills."""
        running = self._running()
        name = signal.Signals(self.signals[-1]).name
        if len(self.signals) > 1:
            self._say(f"received {name} again, killing {len(running)} ranks")
        else:
            self._say(f"received {name}, passed on to {len(running)} ranks")
        for child in running:
            child.signal(signal.SIGKILL if len(self.signals) > 1 else self.signals[-1])
            child.signal(signal.SIGCONT)

    def _watch(self) -> None:
        """Until all ranks have ended."""
        kill_at = None
        handled = 0
        while self._running():
            left = None if kill_at is None else max(0.0, kill_at - time.monotonic())
            for key, _ in self._selector.select(left):
                if key.data is None:
                    os.read(key.fd, 4096)  # a signal arrived
                elif not key.data.read():
                    self._close(key.data)
            for child in self._running():
                self._reap(child)
            if len(self.signals) > handled:
                handled = len(self.signals)
                self._stop_ranks()
                kill_at = kill_at or time.monotonic() + _GRACE
            if kill_at is not None and time.monotonic() >= kill_at and self._running():
                self._say(f"{len(self._running())} ranks still there after {_GRACE:.0f} s, killed")
                for child in self._running():
                    child.signal(signal.SIGKILL)
                kill_at += _GRACE

    @contextlib.contextmanager
    def _signals_caught(self):
        """SIGINT, SIGTERM and SIGCHLD wake the wait point, through a pipe."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(reader, selectors.EVENT_READ, None)
        before = {
            number: signal.signal(number, lambda number, _: self.signals.append(number))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            os.close(reader)
            os.close(writer)

    def run(self) -> int:
        with self._signals_caught():
            try:
                for rank in range(self.options.nproc):
                    self._start(rank)
                pids = [f"{c.rank} = pid {c.process.pid}" for c in self.children.values()]
                self._say(f"store on port {self._store.port}, ranks {', '.join(pids)}")
                self._watch()
            finally:
                for child in self._running():
                    child.signal(signal.SIGKILL)
                    child.process.wait()
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
        if self.signals:
            return 128 + self.signals[0]
        if failed == 0 or (self.options.keep_going and failed < self.options.nproc):
            return 0
        return EXIT_ALL_FAILED if failed == self.options.nproc else EXIT_SOME_FAILED


def _ready(file) -> bool:
    """Is there something to read right now?"""
    with selectors.DefaultSelector() as selector:
        selector.register(file, selectors.EVENT_READ)
        return bool(selector.select(0))


def main(arguments=None) -> int:
    options = _parse(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # ranks may print what the locale cannot
    try:
        return Launcher(options).run()
    except KeyboardInterrupt:  # before the ranks were started
        return 128 + signal.SIGINT
    except CannotStart as error:
        print(f"papilio.run: {error}", file=sys.stderr)
        return EXIT_CANNOT_START


if __name__ == "__main__":
    sys.exit(main())
