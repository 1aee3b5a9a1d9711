"""The result of the matrix as a table: one row per fault and size, one column per phase."""

import pathlib

import page
from cases import FAULTS, PHASES, RANKS, SIZES

BEGIN = "<!-- chaos: begin (make chaos-docs writes what is between these lines) -->"
END = "<!-- chaos: end -->"


def cell(records: list) -> str:
    """The cases of one fault, phase and size; one word per number of ranks."""
    words = dict.fromkeys(RANKS, "-")
    for record in records:
        known = record["result"] == "n/a"
        words[record["ranks"]] = "n/a" if known else f"{record['result']} {record['seconds']:.1f}"
    same = len(set(words.values())) == 1
    return next(iter(words.values())) if same else " · ".join(words.values())


def rows(result: dict) -> list:
    cases = result["cases"]
    out = []
    for fault in FAULTS:
        for size in SIZES:
            own = [r for r in cases if (r["fault"], r["size"]) == (fault, size)]
            if own:
                out.append(
                    [fault, size] + [cell([r for r in own if r["phase"] == p]) for p in PHASES]
                )
    return out


def summary(result: dict) -> str:
    count = {"ok": 0, "failed": 0, "n/a": 0}
    for record in result["cases"]:
        count[record["result"]] += 1
    with_ranks = ", ".join(map(str, RANKS))
    return (
        f"{count['ok']} ok, {count['failed']} failed, {count['n/a']} n/a in {result['seconds']} s "
        f"on {result['cpus']} CPUs; cells: result and seconds with {with_ranks} ranks (-: not run)"
    )


def reasons(result: dict) -> list:
    """Why there are cases that are none, each once: (which faults, the reason)."""
    found: dict = {}
    for record in result["cases"]:
        if record["result"] == "n/a":
            found.setdefault(record["reason"], {})[record["fault"]] = True
    return [(", ".join(faults), reason) for reason, faults in found.items()]


def text(result: dict) -> str:
    lines = [["fault", "size", *PHASES], *rows(result)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    out = ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
           for line in lines]  # fmt: skip
    out += [f"n/a: {faults}: {reason}" for faults, reason in reasons(result)]
    return "\n".join([*out, summary(result)])


def markdown(result: dict) -> str:
    lines = [["fault", "size", *PHASES], ["---"] * 6, *rows(result)]
    out = ["| " + " | ".join(line) + " |" for line in lines]
    out += ["", summary(result) + "."]
    out += [f"- n/a, {faults}: {reason}." for faults, reason in reasons(result)]
    for record in result["cases"]:
        if record["result"] == "failed":
            name = (
                f"{record['fault']}, {record['phase']}, {record['size']}, {record['ranks']} ranks"
            )
            out.append(f"- failed, {name}: {record['findings'][0].splitlines()[0]}")
    return "\n".join(out)


def into_docs(path: pathlib.Path, result: dict) -> None:
    """Replaces what is between the markers; ValueError when they are not there."""
    page.put(path, BEGIN, END, markdown(result))
