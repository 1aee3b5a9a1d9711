"""The story in lines: what was done to whom, what the others saw, after how long, what they did."""

import textwrap

from fault_demo.history import History
from fault_demo.phases import caught_up

WIDTH = 116  # columns
_SEEN = {
    "peer_lost": "peer {rank} is lost ({detail}); goes on without it",
    "peer_slow": "peer {rank} is late ({detail}); does not wait for it until it has caught up",
    "blacklisted": "blacklists peer {rank} ({reason}: {detail})",
    "readmitted": "readmits peer {rank} ({detail})",
    "isolated": "thinks that it is cut off itself ({detail})",
}
_DONE = {
    "kill": "SIGKILL to rank {}",
    "stop": "SIGSTOP to rank {}",
    "continue": "SIGCONT to rank {}",
    "width": "rank {}'s model gets another width (its hyper-parameter file is edited)",
}


def _delay(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _cause(history: History, rank: int, when: float):
    """The last thing done to ``rank`` before ``when``."""
    done = [a for a in history.actions if a.rank == rank and a.when <= when + 0.001]
    return done[-1] if done else None


def _observations(history: History) -> list:
    """What the ranks reported: ``rank 3, 12 ms later: ...``."""
    rows = []
    for event in history.events:
        # Ranks that leave at the end of their work, or after their own error, are no news.
        if event["kind"] not in _SEEN or event["reason"] == "left":
            continue
        cause = _cause(history, event["rank"], event["when"])
        delay = f", {_delay(event['when'] - cause.when)} later" if cause is not None else ""
        text = f"  rank {event['me']}{delay}: " + _SEEN[event["kind"]].format(**event)
        rows.append((event["when"], text))
    return rows


def _hit_steps(history: History, witness: int) -> list:
    """How long the slowest of the three steps took in which the witness met each fault."""
    rows = []
    for action in history.actions:
        after = [s for s in history.steps[witness] if s["start"] + s["seconds"] > action.when]
        if action.kind == "continue" or not after:
            continue
        hit = max(after[:3], key=lambda s: s["seconds"])
        text = f"  rank {witness}: its step {hit['step']} takes {_delay(hit['seconds'])}"
        rows.append((hit["start"] + hit["seconds"], text))
    return rows


def _ends(history: History) -> list:
    rows = []
    for rank, (when, how) in history.ends.items():
        if rank in history.errors:
            at, kind, text = history.errors[rank]
            rows.append((at, f"  rank {rank}: raises {kind}: {text}"))
        steps = len(history.steps[rank])
        rows.append((when, f"rank {rank} ends: {how}, {steps} of {history.planned} steps"))
    return rows


def rows(history: History, frozen: int, witness: int) -> list:
    """(wall time, text), by time."""
    out = [(history.started, "4 ranks are started by python -m papilio.run")]
    first = [steps[0] for steps in history.steps if steps]
    if first:
        done = max(step["start"] + step["seconds"] for step in first)
        out.append((done, "every rank has done its first step"))
    for action in history.actions:
        what = _DONE[action.kind].format(action.rank)
        out.append((action.when, f"** {what} after its step {action.step - 1} ({action.proof})"))
    back = caught_up(history, frozen, witness)
    if back is not None:
        out.append((back["when"], f"  rank {witness}: rank {frozen} counts in every average again"))
    out += _observations(history) + _hit_steps(history, witness) + _ends(history)
    return sorted(out, key=lambda row: row[0])


def text(history: History, frozen: int, witness: int) -> str:
    lines = ["    time  what happened", "  ------  " + "-" * 60]
    for when, what in rows(history, frozen, witness):
        indent = 2 if what.startswith("  ") else 0
        body = textwrap.wrap(what.strip(), WIDTH - 10 - indent) or [""]
        if len(body) > 3:
            body = body[:3]
            body[-1] += " ..."
        lines.append(f"{history.t(when):6.2f} s  " + " " * indent + body[0])
        lines += [" " * (12 + indent) + line for line in body[1:]]
    return "\n".join(lines)
