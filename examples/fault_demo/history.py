"""What a job left behind: step logs, event files and the launcher's lines, read into one object."""

import dataclasses
import json
import pathlib
import re

from fault_demo.job import RANKS, Job


def _json_lines(path: pathlib.Path) -> list:
    """Objects of a JSON-lines file; a last line cut off by SIGKILL is left out."""
    if not path.exists():
        return []
    out = []
    for line in path.read_text().split("\n")[:-1]:
        out.append(json.loads(line))
    return out


@dataclasses.dataclass
class History:
    """One job. Lists are by rank; wall times are ``time.time()``."""

    started: float
    steps: list  # per rank: dicts step, loss, start, seconds, maybe held_out
    events: list  # all ranks, by time: dicts me, when, kind, rank, reason, seq, detail
    rounds: list  # per rank: reports of the tolerant all-reduces, by sequence number
    actions: list
    ends: dict  # rank -> (when, how)
    errors: dict  # rank -> (when, class, text)
    status: int
    planned: int  # steps per rank

    def t(self, when: float) -> float:
        return when - self.started

    def action(self, kind: str):
        return next((action for action in self.actions if action.kind == kind), None)

    def finished(self, rank: int) -> bool:
        return len(self.steps[rank]) == self.planned and self.ends[rank][1] == "exit status 0"

    def final_loss(self, rank: int) -> float | None:
        """Loss on the held-out text after the last step; None when it did not get there."""
        last = self.steps[rank][-1] if self.steps[rank] else {}
        return last.get("held_out") if last.get("step") == self.planned - 1 else None

    def fallback_bytes(self, rank: int) -> int:
        return sum(fallback_bytes(report) for report in self.rounds[rank])


def fallback_bytes(report: dict) -> int:
    elements = sum(c["stop"] - c["start"] for c in report["chunks"] if c["source"] == "local")
    return elements * report["nbytes"] // max(1, report["numel"])


def contributors(reports: list) -> dict:
    """Share of all elements by the set of ranks whose gradients are in it."""
    shares: dict = {}
    for report in reports:
        for chunk in report["chunks"]:
            who = tuple(chunk["contributors"])
            shares[who] = shares.get(who, 0) + chunk["stop"] - chunk["start"]
    total = sum(shares.values())
    return {who: n / total for who, n in sorted(shares.items(), key=lambda x: -x[1])}


def _ends(lines: list) -> dict:
    """From the launcher: when it first said that a rank ended, and how."""
    ends: dict = {}
    for when, line in lines:
        found = re.match(
            r"papilio\.run: rank (\d+)(?: \(pid \d+\))?: (exit status -?\d+|killed by \w+)", line
        )
        if found:
            ends.setdefault(int(found[1]), (when, found[2]))
    return ends


def _errors(lines: list) -> dict:
    errors: dict = {}
    for when, line in lines:
        found = re.match(r"\[rank (\d+)\] (?:\[rank\d+\]: )?papilio\.(?:\w+\.)*(\w+): (.*)", line)
        if found:
            errors[int(found[1])] = (when, found[2], found[3])
    return errors


def load(job: Job) -> History:
    out = job.out
    recorded = [_json_lines(out / f"events.{rank}.jsonl") for rank in range(RANKS)]
    rounds = [
        sorted(
            (x for x in lines if x["kind"] == "round" and x["mode"] == "bounded"),
            key=lambda x: x["seq"],
        )
        for lines in recorded
    ]
    skip = ("round", "group", "missed")
    events = [x for lines in recorded for x in lines if x["kind"] not in skip]
    ends = _ends(job.lines)
    return History(
        started=job.started,
        steps=[_json_lines(out / f"steps.{rank}.jsonl") for rank in range(RANKS)],
        events=sorted(events, key=lambda x: x["when"]),
        rounds=rounds,
        actions=job.actions,
        ends={rank: ends.get(rank, (job.started, "never started")) for rank in range(RANKS)},
        errors=_errors(job.lines),
        status=job.status,
        planned=job.steps,
    )
