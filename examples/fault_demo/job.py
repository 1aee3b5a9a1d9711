"""Starts one training job and injects faults into it from outside, at given steps."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
RANKS = 4
WIDTH = 128
WRONG_WIDTH = 192
_POLL = 0.005  # seconds between two looks at the step logs


@dataclasses.dataclass
class Fault:
    """``kind`` happens to ``rank`` once all of ``watch`` have logged ``step`` steps."""

    kind: str  # "kill", "freeze", "width"
    rank: int
    step: int
    watch: tuple  # ranks
    seconds: float = 0.0  # how long a freeze lasts


def plan(steps: int, freeze: float) -> list:
    """The three faults of the demo. The wrong model waits until the frozen rank has caught up."""
    return [
        Fault("kill", 0, steps * 20 // 100, (0,)),
        Fault("freeze", 1, steps * 35 // 100, (1,), freeze),
        Fault("width", 2, steps * 75 // 100, (1, 2, 3)),
    ]


@dataclasses.dataclass
class Action:
    """Something the supervisor did, with the proof that it took effect."""

    kind: str  # "kill", "stop", "continue", "width"
    rank: int
    when: float
    step: int  # steps that the victim had finished
    proof: str


class Job:
    """One run of the training script under ``python -m papilio.run``."""

    def __init__(self, out: pathlib.Path, steps: int, settings: dict, faults, say, limit=200.0):
        self.out, self.steps = out, steps
        self.settings = settings  # PAPILIO_* variables
        self.faults = list(faults)
        self.limit = limit  # seconds for the whole job
        self.say = say  # one line of progress for people
        self.actions: list = []
        self.lines: list = []  # (when, text) of the launcher and the ranks
        self.pids: dict = {}
        self.started = 0.0
        self.status: int | None = None
        self._counts = [0] * RANKS
        self._files: list = [None] * RANKS
        self._thaw: tuple | None = None  # (when, fault)

    def run(self) -> "Job":
        self._prepare()
        self.started = time.time()
        process = self._launch()
        reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        reader.start()
        try:
            self._supervise(process)
        finally:
            self._end(process)
            reader.join(timeout=10)
        self.status = process.returncode
        return self

    def _prepare(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        for old in self.out.glob("*.jsonl"):
            old.unlink()
        for rank in range(RANKS):
            self._configure(rank, WIDTH)

    def _configure(self, rank: int, width: int) -> None:
        fresh = self.out / "config.new"
        fresh.write_text(json.dumps({"width": width}))
        fresh.replace(self.out / f"config.{rank}.json")  # readers see the old or the new file

    def _launch(self) -> subprocess.Popen:
        script = ROOT / "examples" / "train_gpt.py"
        command = [sys.executable, "-m", "papilio.run", "-n", str(RANKS), "--keep-going"]
        command += [str(script), "--steps", str(self.steps)]
        command += [
            "--metrics",
            str(self.out / "steps"),
            "--config",
            f"{self.out}/config.{{rank}}.json",
        ]
        environment = os.environ | {
            **self.settings,
            "PAPILIO_EVENTS_FILE": str(self.out / "events.{rank}.jsonl"),
            "PAPILIO_REPORT_HISTORY": "4096",
        }
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def _read(self, process) -> None:
        with open(self.out / "output.txt", "w", buffering=1) as copy:
            for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip("\n")
                copy.write(line + "\n")
                found = re.findall(r"(\d+) = pid (\d+)", line)
                if found and not self.pids:
                    self.pids = {int(rank): int(pid) for rank, pid in found}
                self.lines.append((time.time(), line))

    def _supervise(self, process) -> None:
        shown = time.monotonic()
        while process.poll() is None:
            self._count_steps()
            self._inject()
            if time.monotonic() - shown > 5:
                shown = time.monotonic()
                self.say(f"steps {'/'.join(map(str, self._counts))} of {self.steps}")
            if time.time() - self.started > self.limit:
                self.say(f"not finished after {self.limit:.0f} s, stopping it")
                return
            time.sleep(_POLL)

    def _end(self, process) -> None:
        """Leaves no process behind, whatever happened."""
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # the launcher continues and stops its ranks
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()  # takes its ranks along
        process.wait()

    def _count_steps(self) -> None:
        for rank in range(RANKS):
            if self._files[rank] is None:
                path = self.out / f"steps.{rank}.jsonl"
                if not path.exists():
                    continue
                self._files[rank] = open(path, "rb")  # noqa: SIM115 - read as it grows
            self._counts[rank] += self._files[rank].read().count(b"\n")

    def _inject(self) -> None:
        if self._thaw is not None:
            if time.time() >= self._thaw[0]:
                self._continue(self._thaw[1])
            return  # one fault at a time
        if not self.faults or len(self.pids) < RANKS:
            return
        fault = self.faults[0]
        if any(self._counts[rank] < fault.step for rank in fault.watch):
            return
        self.faults.pop(0)
        {"kill": self._kill, "freeze": self._freeze, "width": self._widen}[fault.kind](fault)

    def _did(self, kind: str, rank: int, when: float, proof: str) -> None:
        self.actions.append(Action(kind, rank, when, self._counts[rank], proof))
        self.say(f"{kind} rank {rank} after {self._counts[rank]} steps ({proof})")

    def _kill(self, fault: Fault) -> None:
        when = time.time()
        os.kill(self.pids[fault.rank], signal.SIGKILL)
        self._did("kill", fault.rank, when, f"SIGKILL to pid {self.pids[fault.rank]}")

    def _freeze(self, fault: Fault) -> None:
        when = time.time()
        os.kill(self.pids[fault.rank], signal.SIGSTOP)
        state = _wait_for_state(self.pids[fault.rank], "T")
        self._thaw = (when + fault.seconds, fault)
        self._did("stop", fault.rank, when, f"SIGSTOP, process state {state}")

    def _continue(self, fault: Fault) -> None:
        self._thaw = None
        state = _state(self.pids[fault.rank])
        when = time.time()
        os.kill(self.pids[fault.rank], signal.SIGCONT)
        self._did("continue", fault.rank, when, f"SIGCONT, process state was {state}")

    def _widen(self, fault: Fault) -> None:
        when = time.time()
        self._configure(fault.rank, WRONG_WIDTH)
        self._did("width", fault.rank, when, f"width {WIDTH} -> {WRONG_WIDTH} in its config file")


def _state(pid: int) -> str:
    """One letter as in ``ps``; ``-`` when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "-"


def _wait_for_state(pid: int, wanted: str, limit: float = 1.0) -> str:
    end = time.monotonic() + limit
    while _state(pid) != wanted and time.monotonic() < end:
        time.sleep(0.001)
    return _state(pid)
