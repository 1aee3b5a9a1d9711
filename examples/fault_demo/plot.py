"""Draws the run: loss of both runs by step; step times and contributors by time."""

import statistics

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from fault_demo.history import History

# Okabe and Ito: told apart with any kind of colour vision; line styles differ as well.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7"]
MARKERS = ["o", "s", "^", "D"]
INK, FAULT = "#333333", "#D55E00"
_LABELS = {
    "kill": "kill -9\nrank {}",
    "stop": "freeze\nrank {}",
    "continue": "rank {}\ncontinues",
    "width": "rank {}: other\nmodel",
}


def _smooth(values: list, window: int = 15) -> list:
    """Mean over the last ``window`` values."""
    return [statistics.fmean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]


def _log_axis(axes, ticks: list) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _loss(axes, history: History, reference: History | None, witness: int) -> None:
    runs = [(history, "through three faults", FAULT, "-", "o")]
    if reference is not None:
        runs.insert(0, (reference, "fault-free", COLOURS[0], "--", "s"))
    for run, name, colour, style, marker in runs:
        steps = run.steps[witness]
        losses = _smooth([s["loss"] for s in steps])
        axes.plot([s["step"] for s in steps], losses, style, color=colour, alpha=0.4, lw=1)
        held = [(s["step"], s["held_out"]) for s in steps if "held_out" in s]
        axes.plot(
            *zip(*held, strict=True), style, color=colour, marker=marker, ms=5, lw=1.8, label=name
        )
    _log_axis(axes, [1.5, 2, 2.5, 3, 4, 5])
    axes.set(xlabel="training step", ylabel="loss (nats per byte)", xlim=(0, history.planned))
    axes.set_title(
        f"Loss of rank {witness}: held-out text (marks), training batches (faint, 15-step mean)",
        loc="left",
    )
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.86))
    for action in history.actions:
        before = [s["step"] for s in history.steps[witness] if s["start"] <= action.when]
        _mark(axes, before[-1] if before else 0, _LABELS[action.kind].format(action.rank))


def _step_times(axes, history: History, patience: float, origin: float) -> None:
    """Every step is a dash from its start to its end, as high as it is long."""
    axes.axhline(patience, color=INK, lw=0.8)
    axes.annotate("patience", (0, patience), (2, 2), textcoords="offset points", fontsize=8)
    for rank, steps in enumerate(history.steps):
        starts = [s["start"] - origin for s in steps]
        times = [s["seconds"] for s in steps]
        ends = [start + time for start, time in zip(starts, times, strict=True)]
        axes.hlines(times, starts, ends, color=COLOURS[rank], lw=1.6)
        axes.plot(
            ends,
            times,
            MARKERS[rank],
            color=COLOURS[rank],
            ms=3,
            alpha=0.8,
            markeredgewidth=0,
            label=f"rank {rank}",
        )
    _log_axis(axes, [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5])
    axes.set_ylabel("step time (s)")
    axes.set_title("Time of every step", loc="left")
    axes.legend(
        frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 0.98), markerscale=2.5
    )


def _contributors(axes, history: History, witness: int, origin: float) -> None:
    """One band per rank: the share of every average in which its gradients count."""
    reports = history.rounds[witness]
    for rank in range(4):
        previous = None
        for report in reports:
            when = report["when"] - origin
            start = when - 0.1 if previous is None else previous
            previous = when
            parts = [c for c in report["chunks"] if rank in c["contributors"]]
            share = sum(c["stop"] - c["start"] for c in parts) / max(1, report["numel"])
            if share:
                axes.barh(rank, when - start, left=start, height=0.75 * share, color=COLOURS[rank])
    axes.set_yticks(range(4), [f"rank {rank}" for rank in range(4)])
    axes.set_ylim(3.6, -0.6)
    axes.set_xlabel("time since the first step (s)")
    axes.set_title(f"Whose gradients are in the averages that rank {witness} gets", loc="left")


def _mark(axes, x: float, label: str = "") -> None:
    axes.axvline(x, color=FAULT, lw=0.9, ls=(0, (2, 3)))
    axes.annotate(
        label,
        (x, 1.0),
        (3, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color=FAULT,
    )


def draw(path, history: History, reference: History | None, witness: int, patience: float) -> None:
    """Writes the picture to ``path`` (PNG)."""
    plt.rcParams.update(
        {
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": INK,
            "axes.grid": True,
            "grid.color": "#E5E5E5",
            "axes.axisbelow": True,
        }
    )
    figure, panels = plt.subplots(
        3, 1, figsize=(10, 9), height_ratios=[1.25, 1.1, 0.8], layout="constrained"
    )
    origin = history.steps[witness][0]["start"]
    _loss(panels[0], history, reference, witness)
    _step_times(panels[1], history, patience, origin)
    _contributors(panels[2], history, witness, origin)
    end = max(s[-1]["start"] + s[-1]["seconds"] for s in history.steps if s) - origin
    for axes in panels[1:]:
        axes.set_xlim(-0.3, end + 0.3)
        for action in history.actions:
            _mark(axes, action.when - origin)
    panels[1].tick_params(labelbottom=False)
    figure.suptitle(
        "Training through a kill, a freeze and a wrong model",
        x=0.008,
        ha="left",
        fontsize=13,
        fontweight="bold",
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)
