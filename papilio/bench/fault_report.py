"""The second table: what the calls of each backend came to under faults and stragglers."""

from papilio.bench.report import Text, bandwidth, number

_ROW = "{:>9} {:>8} {:>5} {:>5} {:>5} {:>5} {:>8} {:>8} {:>8} {:>9} {:>7} {:>8} {:>8} {:>4} {:>5}"
_ERROR = 160  # characters of an error
_HEAD = "size backend ok deg fail incl p50 p99 p99.9 max goodput t_det t_rec plan fired"


def _milliseconds(value: float | None) -> str:
    return number(None if value is None else value * 1e3)


def write(text: Text, rows: list) -> None:
    """Table and notes, below what ``text`` has written."""
    if not rows:
        return
    text.line("#")
    text.comment(explanation(text.options))
    for line in table(rows):
        text.line(line)
    for row in rows:
        for note in notes(row):
            text.comment(note)


def explanation(options) -> str:
    """What the columns mean; no benchmark of collectives has them, so nobody knows them."""
    plan = ", ".join(item.spec for item in options.planned)
    hit = ",".join(str(rank) for rank in sorted({item.rank for item in options.planned}))
    return (
        f"planned: {plan}. Calls of the ranks other than {hit}: ok, degraded (the backend says "
        "that somebody is missing), failed; whose calls fail 3 times in a row has ended its job. "
        "incl: mean share of the ranks that is in the results. Times in us over calls that did not "
        "fail; goodput: bytes of these calls by wall time, GB/s. t_det, t_rec in ms from the fault "
        "to the first word about that rank (or error), and to the first of 3 calls at the old pace "
        "(at most twice the median before); - = never"
    )


def table(rows: list) -> list:
    """Lines of the table, without notes."""
    lines = ["#" + _ROW.format(*_HEAD.split())[1:]]
    for row in rows:
        stats, found = row["stats"], row["faulted"]
        lines.append(
            _ROW.format(
                row["size"],
                row["backend"][:8],
                found["ok"],
                found["degraded"],
                found["failed"],
                "-" if found["included"] is None else f"{found['included']:.2f}",
                *(number(stats[key]) for key in ("p50", "p99", "p999", "max")),
                bandwidth(found["goodput"]),
                _milliseconds(found["detected"]),
                _milliseconds(found["recovered"]),
                found["planned"],
                found["fired"],
            )
        )
    return lines


def notes(row: dict) -> list:
    """What a reader should know about one row: who was lost, the first error, what did not fire."""
    found, name = row["faulted"], f"{row['backend']}, {row['size']} bytes: "
    out = [f"{name}rank {rank} {what}" for rank, what in sorted(found["lost"].items())]
    first = min(
        (errors[0] + [rank] for rank, errors in found["errors"].items() if errors), default=None
    )
    if first is not None:
        text = first[1].encode("ascii", "replace").decode()[:_ERROR]
        out.append(f"{name}first error, rank {first[2]} in call {first[0]}: {text}")
    out += [f"{name}{f['spec']} did not happen" for f in found["faults"] if not f["fired"]]
    return out
