"""The stretches between two faults, as a survivor lived them."""

import dataclasses
import statistics

from fault_demo.history import History, contributors, fallback_bytes

NAMES = {
    "start": "all four train",
    "kill": "rank {} is dead",
    "stop": "rank {} is frozen",
    "continue": "rank {} is back",
    "width": "rank {} has the wrong model",
}


@dataclasses.dataclass
class Phase:
    name: str
    start: float  # wall time
    end: float
    steps: list  # of the witness: those that began in it
    reports: list

    @property
    def shares(self) -> dict:
        return contributors(self.reports)

    @property
    def fallback(self) -> int:
        return sum(fallback_bytes(report) for report in self.reports)

    @property
    def median(self) -> float:
        return statistics.median(step["seconds"] for step in self.steps) if self.steps else 0.0

    @property
    def longest(self) -> float:
        return max((step["seconds"] for step in self.steps), default=0.0)


def phases(history: History, witness: int) -> list:
    """Phases of the run in the eyes of ``witness``. The step that a fault hits belongs to the phase
    that the fault begins."""
    steps = history.steps[witness]
    if not steps:
        return []
    marks = [(steps[0]["start"], NAMES["start"])]
    marks += [(a.when, NAMES[a.kind].format(a.rank)) for a in history.actions]
    last = steps[-1]["start"] + steps[-1]["seconds"]
    ends = [when for when, _ in marks[1:]] + [last + 1]
    out = []
    for (start, name), end in zip(marks, ends, strict=True):
        inside = [s for s in steps if start <= s["start"] + s["seconds"] < end]
        reports = [r for r in history.rounds[witness] if start <= r["when"] < end]
        out.append(Phase(name, start, min(end, last), inside, reports))
    return out


def caught_up(history: History, frozen: int, witness: int) -> dict | None:
    """First round after the freeze in which every member that was alive then counts again, the
    frozen rank included, as seen by ``witness``."""
    back = history.action("continue")
    if back is None:
        return None
    for report in history.rounds[witness]:
        if report["when"] < back.when:
            continue
        if all(frozen in chunk["contributors"] for chunk in report["chunks"]):
            return report
    return None
