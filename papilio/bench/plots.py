"""Plots of a benchmark document: PNG and SVG, with the drawn numbers as CSV beside each.

python -m papilio.bench.plots bench.json FOLDER    draws again from a saved document
"""

import json
import os
import statistics
import sys

from papilio.bench import output, report

# Okabe and Ito's palette: distinguishable with any colour vision, and in grey by marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#666666"


class Missing(Exception):
    """matplotlib is not installed."""


def _pyplot():
    try:
        import matplotlib
    except ImportError:
        raise Missing("install matplotlib, e.g. by `pip install papilio[bench]`") from None
    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#dddddd",
            "grid.linewidth": 0.6,
            "axes.axisbelow": True,
            "legend.frameon": False,
            "svg.hashsalt": "papilio",  # the same numbers give the same file
        }
    )
    import matplotlib.pyplot as pyplot

    return pyplot


def size_label(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size} B"


def _series(content: dict, backend: str, *keys: str) -> list:
    """[(size, value of each key)], the median over cycles; sizes without a value are left out."""
    by_size: dict = {}
    for row in content["results"]:
        if row["backend"] == backend and row["size"] > 0:
            values = [row["stats"].get(key) for key in keys]
            if None not in values:
                by_size.setdefault(row["size"], []).append(values)
    return [
        (size, *(statistics.median(column) for column in zip(*rows, strict=True)))
        for size, rows in sorted(by_size.items())
    ]


def _caption(content: dict) -> str:
    host, git, config = content["host"][0], content["git"], content["config"]
    dirty = " + changes" if git["dirty"] else ""
    row = content["results"][0]
    what = row["collective"] + ("" if row["op"] == "none" else f" {row['op']}")
    calls = sorted({r["iterations"] for r in content["results"]})
    spoken = f"{calls[0]}" if len(calls) == 1 else f"{calls[0]} to {calls[-1]}"
    mode = content["args"]["mode"]
    combined = {"max": "slowest rank", "min": "fastest rank", "avg": "mean over ranks"}.get(
        content["config"]["combine"], "rank 0"
    )
    if content["args"]["faults"] or content["args"]["stragglers"]:
        combined += " of those that nothing was planned for"
    return (
        f"{what} of {row['type']}, {config['ranks']} ranks on one host ({host['cpus']} CPUs, "
        f"{host['cpu']}): loopback and shared memory, no network\n"
        f"{mode} calls, {spoken} per size and backend; one sample = a call, {combined}\n"
        f"papilio {content['version']} commit {git['commit']}{dirty}, "
        f"torch {content['libraries']['torch']}, {content['start'][:16]}Z"
    )


def _size_axis(axis, sizes: list) -> None:
    axis.set_xscale("log", base=2)
    step = max(1, -(-len(sizes) // 9))
    ticks = sizes[::-1][::step][::-1]
    axis.set_xticks(ticks, [size_label(size) for size in ticks], rotation=35, ha="right")
    axis.minorticks_off()
    axis.set_xlabel("message size")


def _sizes(content: dict) -> list:
    return sorted({row["size"] for row in content["results"] if row["size"] > 0})


def finish(figure, content: dict, title: str) -> None:
    figure.suptitle(title, x=0.02, ha="left", fontsize=13, fontweight="bold")
    figure.text(0.02, 0.012, _caption(content), fontsize=7.5, color=GREY, va="bottom")
    figure.tight_layout(rect=(0, 0.08, 1, 1))


def _bandwidth(pyplot, content: dict):
    """How close to the wire: twice, because a linear axis hides the small sizes."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 5))
    table = []
    for number, backend in enumerate(content["config"]["backends"]):
        series = _series(content, backend, "busbw_p50", "busbw_p25", "busbw_p75")
        table += [(backend, *point) for point in series]
        if not series:
            continue
        sizes, middle, low, high = zip(*series, strict=True)
        colour, marker = COLOURS[number % 6], MARKERS[number % 6]
        for axis in axes:
            axis.fill_between(sizes, low, high, color=colour, alpha=0.18, linewidth=0)
            axis.plot(sizes, middle, color=colour, marker=marker, markersize=5, label=backend)
    for axis, scale in zip(axes, ("linear", "log"), strict=True):
        axis.set_yscale(scale)
        _size_axis(axis, _sizes(content))
        axis.set_ylabel("bus bandwidth, GB/s (1e9)")
        axis.set_title(f"{scale} scale", fontsize=10, color=GREY, loc="left")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(title="p50, band p25 to p75", loc="best", alignment="left")
    finish(figure, content, "Bus bandwidth by message size")
    return figure, ("backend", "size", "busbw_p50", "busbw_p25", "busbw_p75"), table


def _latency(pyplot, content: dict):
    figure, axis = pyplot.subplots(figsize=(8, 5.4))
    table = []
    for number, backend in enumerate(content["config"]["backends"]):
        colour, marker = COLOURS[number % 6], MARKERS[number % 6]
        for key, style, face in (("p50", "-", colour), ("p99", "--", "white")):
            series = _series(content, backend, key)
            table += [(backend, key, *point) for point in series]
            if series:
                sizes, times = zip(*series, strict=True)
                axis.plot(
                    sizes,
                    times,
                    style,
                    color=colour,
                    marker=marker,
                    markersize=5,
                    markerfacecolor=face,
                    label=f"{backend} {key}",
                )
    axis.set_yscale("log")
    _size_axis(axis, _sizes(content))
    axis.set_ylabel("time of a call, µs")
    axis.legend(title="p99 where there are 100 calls", loc="best", alignment="left")
    finish(figure, content, "Latency by message size")
    return figure, ("backend", "percentile", "size", "us"), table


def _ratio(pyplot, content: dict):
    """Bars from 1 up (slower) or down (faster), one group per size."""
    pairs = sorted({(c["backend"], c["other"]) for c in content["comparisons"]})
    sizes = _sizes(content)
    figure, axis = pyplot.subplots(figsize=(9.5, 5.4))
    width = 0.8 / len(pairs)
    table = []
    for number, (first, other) in enumerate(pairs):
        colour = COLOURS[(number + 2) % 6]
        for item in content["comparisons"]:
            if (item["backend"], item["other"]) != (first, other) or item["size"] not in sizes:
                continue
            table.append([item[key] for key in _RATIO_KEYS] + [report.verdict_of(item)])
        # Several cycles: the median one is drawn, all are in the CSV.
        for place, size in enumerate(sizes):
            found = sorted(
                (c for c in content["comparisons"] if c["size"] == size and c["other"] == other),
                key=lambda c: c["ratio"],
            )
            if not found:
                continue
            item = found[len(found) // 2]
            x = place - 0.4 + width * (number + 0.5)
            clear = report.verdict_of(item) != "no clear difference"
            axis.bar(
                x,
                item["ratio"] - 1,
                width * 0.92,
                bottom=1,
                color=colour if clear else "white",
                edgecolor=colour,
                hatch=None if clear else "////",
                label=f"{first} / {other}" if place == 0 else None,
            )
            axis.vlines(x, item["ratio_low"], item["ratio_high"], color="black", linewidth=1)
            _bar_label(axis, x, item)
    _ratio_axis(axis, sizes, pairs)
    others = ", ".join(other for _, other in pairs)
    finish(figure, content, f"Time of {pairs[0][0]} relative to {others}")
    return figure, (*_RATIO_KEYS, "verdict"), table


_RATIO_KEYS = ("size", "backend", "other", "ratio", "ratio_low", "ratio_high", "p_value")


def _bar_label(axis, x: float, item: dict) -> None:
    up = item["ratio"] >= 1
    axis.annotate(
        f"{item['ratio']:.2f}",
        (x, item["ratio_high"] if up else item["ratio_low"]),
        xytext=(0, 4 if up else -4),
        textcoords="offset points",
        ha="center",
        va="bottom" if up else "top",
        fontsize=8,
    )


def _ratio_axis(axis, sizes: list, pairs: list) -> None:
    axis.axhline(1, color="black", linewidth=1)
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    low, high = min(low / 1.25, 0.7), max(high * 1.25, 1.45)
    axis.set_ylim(low, high)
    ticks = [t for t in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low <= t <= high]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.grid(False, axis="x")
    axis.set_xticks(
        range(len(sizes)), [size_label(size) for size in sizes], rotation=35, ha="right"
    )
    axis.set_xlabel("message size")
    axis.set_ylabel("faster ←    ratio of p50 times    → slower")
    axis.set_title(
        "lines: 95 % interval; hatched: no clear difference", fontsize=10, color=GREY, loc="left"
    )
    if len(pairs) > 1:
        axis.legend(loc="lower right")


def draw(content: dict, folder: str) -> list:
    """Draws what the document has data for; returns the names of the files in ``folder``."""
    wanted = {}
    if content["results"] and "faulted" in content["results"][0]:
        from papilio.bench import fault_plots

        wanted |= {"timeline": fault_plots.timeline, "tail": fault_plots.tail}
    if len({row["size"] for row in content["results"] if row["size"] > 0}) >= 2:
        wanted |= {"busbw": _bandwidth, "latency": _latency}
    if any(item["size"] > 0 for item in content["comparisons"]):
        wanted["ratio"] = _ratio
    if content["results"] and content["results"][0]["stats"]["p50"] is None:
        return []  # -I 0: there is nothing but means
    pyplot = _pyplot()
    os.makedirs(folder, exist_ok=True)
    written = []
    for name, painter in wanted.items():
        figure, header, table = painter(pyplot, content)
        for kind in ("png", "svg"):
            figure.savefig(os.path.join(folder, f"{name}.{kind}"), dpi=150)
            written.append(f"{name}.{kind}")
        pyplot.close(figure)
        output.write(os.path.join(folder, f"{name}.csv"), output.table_text(header, table))
        written.append(f"{name}.csv")
    return written


def main(arguments) -> int:
    if len(arguments) != 2:
        print("usage: python -m papilio.bench.plots bench.json FOLDER", file=sys.stderr)
        return 2
    try:
        with open(arguments[0]) as file:
            content = json.load(file)
        print("\n".join(os.path.join(arguments[1], name) for name in draw(content, arguments[1])))
    except (OSError, ValueError, KeyError, Missing) as error:
        print(f"papilio.bench.plots: {arguments[0]}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
