"""What a promise came to: one line per figure, with the bound it has to keep."""

import dataclasses
import math


@dataclasses.dataclass
class Figure:
    """``most`` None: printed for comparison, nothing is promised. ``measured`` None: it could not
    be measured here, and ``note`` says why."""

    promise: str
    what: str
    measured: float | None
    most: float | None
    unit: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "n/a"
        if self.most is None:
            return "-"
        # A figure that is not a number keeps no bound.
        return "ok" if self.measured <= self.most else "FAILED"

    def cells(self) -> list:
        bound = "-" if self.most is None else "at most " + _number(self.most, self.unit)
        measured = "n/a" if self.measured is None else _number(self.measured, self.unit)
        return [self.promise, self.what, measured, bound, self.verdict, self.note]


def _number(value: float, unit: str) -> str:
    if not math.isfinite(value):
        text = str(value)
    elif value == int(value):
        text = str(int(value))
    else:
        text = f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return f"{text} {unit}".strip()


HEAD = ["promise", "figure", "measured", "bound", "", "remarks"]


def text(figures: list) -> str:
    lines = [HEAD, *(figure.cells() for figure in figures)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(HEAD))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown(figures: list) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *(figure.cells() for figure in figures)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def hold(figures: list) -> bool:
    return all(figure.verdict != "FAILED" for figure in figures)
