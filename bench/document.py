"""docs/benchmarks.md out of what papilio.bench has written (bench.json): nothing in it is typed."""

from papilio.bench.plots import size_label

_HEAD = """# Benchmarks

Made by `make benchmarks` ({date}): every figure below is from a run of it, and the command above
a table repeats that run alone. Do not edit.

{machine}

Times are those of the slowest rank per call, in microseconds. The backends of a run take turns,
call by call or in turns of 50; *ratio* is the quotient of the medians with its 95 % bootstrap
interval, below 1 means that Papilio is faster. All ranks share the machine's processors, and no
network is in it: this is the cost of the software. What the options mean:
`python -m papilio.bench --help`.
"""


def page(runs: list) -> str:
    """Markdown for ``runs``: pairs of a runs.Run and the content of its bench.json."""
    first = runs[0][1]
    parts = [_HEAD.format(date=first["start"][:10], machine=_machine(first))]
    for run, content in runs:
        parts.append(f"## {run.title}\n\n`python -m papilio.bench {run.arguments}`\n")
        faulted = bool(content["results"]) and "faulted" in content["results"][0]
        parts.append("\n".join(_fault_table(content) if faulted else _table(content)) + "\n")
        parts.append(_footnote(content) + "\n")
        if run.plot:
            parts.append(f"![{run.title}](img/{image_name(run)})\n")
    return "\n".join(parts)


def image_name(run) -> str:
    return f"benchmarks-{run.name}.png"


def _machine(content: dict) -> str:
    host, versions = content["host"][0], content["libraries"]
    return (
        f"{host['cpus']} CPUs {host['cpu']}, {host['memory_gb']:.0f} GB, Linux {host['kernel']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + "."
    )


def _microseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if value < 1e4 else f"{value:.0f}"


def _milliseconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds * 1e3:.0f} ms"


def _row(cells: list) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(content: dict) -> list:
    """One line per size: both backends' p50 and p99, and the ratio."""
    mine, other = content["config"]["backends"]
    stats = {(row["size"], row["backend"]): row["stats"] for row in content["results"]}
    lines = [
        _row(["size", f"{mine} p50", "p99", f"{other} p50", "p99", "ratio"]),
        _row(["---"] * 6),
    ]
    for item in content["comparisons"]:
        size = item["size"]
        times = [
            _microseconds(stats[size, name][key])
            for name in (mine, other)
            for key in ("p50", "p99")
        ]
        interval = f"{item['ratio_low']:.3f} to {item['ratio_high']:.3f}"
        label = size_label(size) if size else "-"
        lines.append(_row([label, *times, f"{item['ratio']:.3f} ({interval})"]))
    return lines


def _fault_table(content: dict) -> list:
    """One line per backend: what the calls of the ranks that nothing was planned for came to."""
    heads = ["backend", "calls that returned", "failed", "p50", "p99", "longest"]
    lines = [_row([*heads, "noticed after", "old pace after"]), _row(["---"] * 8)]
    for row in content["results"]:
        found, stats = row["faulted"], row["stats"]
        whole = f"{found['ok'] + found['degraded']}, {found['degraded']} without a rank"
        times = [_microseconds(stats[key]) for key in ("p50", "p99", "max")]
        after = [_milliseconds(found[key]) for key in ("detected", "recovered")]
        lines.append(_row([row["backend"], whole, str(found["failed"]), *times, *after]))
    return lines


def _footnote(content: dict) -> str:
    git, summary = content["git"], content["summary"]
    commit = git["commit"][:12] + (" with changes" if git["dirty"] else "")
    checked = f"{summary['wrong']} wrong elements in {summary['verified']} checked calls"
    memory = [
        f"{name} {max(rank[name]['peak'] for rank in content['memory']) / 2**20:.0f} MiB"
        for name in content["config"]["backends"]
        if content["memory"] and all(name in rank for rank in content["memory"])
    ]
    beside = f"; most memory of a rank beside the tensors: {', '.join(memory)}" if memory else ""
    return f"Commit {commit}, load {content['host'][0]['load']:.1f} before; {checked}{beside}."
