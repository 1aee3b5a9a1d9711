"""Plots of a run with faults or stragglers: what happened call by call, and how long calls took."""

from papilio.bench.plots import COLOURS, GREY, MARKERS, finish, size_label


def _rows(content: dict) -> list:
    """One row per backend: the largest size, its first cycle."""
    rows = [row for row in content["results"] if row["cycle"] == 0]
    largest = max(row["size"] for row in rows)
    return [row for row in rows if row["size"] == largest]


def _plan(content: dict) -> str:
    return ", ".join(content["args"]["faults"] + content["args"]["stragglers"])


def _marks(axis, content: dict) -> None:
    """A line at every planned fault."""
    for spec in content["args"]["faults"]:
        call = int(spec.split("@")[1].split(":")[1].split("+")[0])
        axis.axvline(call, color=GREY, linewidth=1, linestyle=":")
        axis.annotate(
            spec,
            (call, 0.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 2),
            textcoords="offset points",
            fontsize=8,
            color=GREY,
            va="bottom",
        )


def timeline(pyplot, content: dict):
    """Call number on x: time of each call, failures, and the share of the ranks in the result."""
    figure, (times, shares) = pyplot.subplots(
        2, 1, figsize=(9.5, 6), sharex=True, height_ratios=(3, 1)
    )
    table = []
    rows = _rows(content)
    for number, row in enumerate(rows):
        colour = COLOURS[number % 6]
        calls = list(enumerate(row["faulted"]["timeline"]))
        table += [
            (
                row["backend"],
                k,
                c["us"],
                c["outcome"],
                c["included"],
                c["end"] - calls[0][1]["begin"],
            )
            for k, c in calls
        ]
        good = [(k, c) for k, c in calls if c["outcome"] != "failed"]
        bad = [(k, c) for k, c in calls if c["outcome"] == "failed"]
        if good:
            x = [k for k, _ in good]
            times.plot(x, [c["us"] / 1e3 for _, c in good], color=colour, label=row["backend"])
            shares.plot(x, [c["included"] for _, c in good], color=colour, drawstyle="steps-mid")
        if bad:
            times.plot(
                [k for k, _ in bad],
                [c["us"] / 1e3 for _, c in bad],
                linestyle="none",
                marker="x",
                markersize=9,
                markeredgewidth=2,
                color=colour,
                label=f"{row['backend']} fails",
            )
    times.set_yscale("log")
    times.set_ylabel("time of a call, ms")
    shares.set_ylabel("ranks in\nthe result")
    shares.set_ylim(0, 1.08)
    shares.set_xlabel("call")
    _marks(times, content)
    times.set_title(_plan(content), fontsize=10, color=GREY, loc="left")
    times.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(rows) + 1)
    size = size_label(rows[0]["size"]) if rows else ""
    finish(figure, content, f"Call by call, {size}")
    return figure, ("backend", "call", "us", "outcome", "included", "seconds"), table


def tail(pyplot, content: dict):
    """Share of the calls that take longer than x: is the time of a call bounded?"""
    figure, axis = pyplot.subplots(figsize=(8, 5.4))
    table = []
    rows = _rows(content)
    for number, row in enumerate(rows):
        times = sorted(
            c["us"] / 1e3 for c in row["faulted"]["timeline"] if c["outcome"] != "failed"
        )
        if not times:
            continue
        beyond = [1 - k / len(times) for k in range(len(times))]
        table += [(row["backend"], ms, share) for ms, share in zip(times, beyond, strict=True)]
        middle = times[(len(times) - 1) // 2]
        axis.plot(
            times,
            beyond,
            color=COLOURS[number % 6],
            marker=MARKERS[number % 6],
            markevery=max(1, len(times) // 12),
            markersize=5,
            drawstyle="steps-post",
            label=f"{row['backend']}: p50 {middle:.3g} ms, max {times[-1]:.3g} ms",
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("time of a call, ms")
    axis.set_ylabel("share of the calls that take longer")
    axis.set_title(_plan(content), fontsize=10, color=GREY, loc="left")
    axis.legend(loc="lower left")
    size = size_label(rows[0]["size"]) if rows else ""
    finish(figure, content, f"The tail of the call times, {size}")
    return figure, ("backend", "ms", "share_longer"), table
