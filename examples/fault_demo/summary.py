"""The tables at the end. Plain ASCII."""

from fault_demo.history import History
from fault_demo.phases import phases


def table(head: list, rows: list) -> str:
    """Columns as wide as their widest cell; the first one left-aligned."""
    cells = [head, *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    out = []
    for number, row in enumerate(cells):
        line = [row[0].ljust(widths[0])]
        line += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        out.append("  " + "  ".join(line).rstrip())
        if number == 0:
            out.append("  " + "  ".join("-" * width for width in widths))
    return "\n".join(out)


def _bytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**19 else f"{count} B"


def _who(shares: dict) -> str:
    """The two largest sets of contributors: ``0123 98%  123 2%``."""
    parts = [f"{{{','.join(map(str, who))}}} {share:.0%}" for who, share in shares.items()]
    return "  ".join(parts[:2]) + ("  ..." if len(parts) > 2 else "")


def phase_table(history: History, witness: int) -> str:
    rows = []
    for phase in phases(history, witness):
        rows.append(
            [
                phase.name,
                f"{history.t(phase.start):.1f} - {history.t(phase.end):.1f}",
                len(phase.steps),
                f"{phase.median * 1e3:.0f}",
                f"{phase.longest * 1e3:.0f}",
                _bytes(phase.fallback),
                _who(phase.shares),
            ]
        )
    head = ["phase", "time (s)", "steps", "median ms", "longest ms", "fallback", "contributors"]
    return table(head, rows)


def _blacklist(history: History, rank: int) -> str:
    """Who this rank has on its blacklist at the end."""
    listed: dict = {}
    for event in history.events:
        if event["me"] != rank:
            continue
        if event["kind"] == "blacklisted":
            listed[event["rank"]] = event["reason"]
        elif event["kind"] == "readmitted":
            listed.pop(event["rank"], None)
    return ", ".join(f"{who} ({why})" for who, why in sorted(listed.items())) or "-"


def rank_table(history: History, reference: History | None) -> str:
    rows = []
    for rank, steps in enumerate(history.steps):
        loss = history.final_loss(rank)
        base = reference.final_loss(rank) if reference else None
        error = history.errors.get(rank)
        rows.append(
            [
                rank,
                error[1] if error else history.ends[rank][1],
                f"{len(steps)}/{history.planned}",
                f"{max((s['seconds'] for s in steps), default=0):.2f}",
                _bytes(history.fallback_bytes(rank)),
                _blacklist(history, rank),
                "-" if loss is None else f"{loss:.3f}",
                "-" if base is None else f"{base:.3f}",
            ]
        )
    head = ["rank", "end", "steps", "longest step (s)", "fallback", "blacklist"]
    return table([*head, "final loss", "fault-free"], rows)


def check_list(checks: list) -> str:
    return "\n".join(
        f"  {'ok  ' if check.good else 'FAIL'} {check.promise}\n         {check.evidence}"
        for check in checks
    )
