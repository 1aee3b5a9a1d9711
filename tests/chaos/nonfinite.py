"""A gradient with a NaN and infinities in it, and what becomes of them by a rank's own report.

``bad`` says whose it is and where: ``{"rank": 2, "at": {element: "nan" | "inf" | "-inf"}}``. A mean
with such an element in it is that element; one without its rank is what the oracle says.
"""

import oracle
import torch


def places(numel: int) -> dict:
    """One of each kind, in different chunks where there are several."""
    return {0: "nan", numel // 2: "inf", numel - 1: "-inf"}


def spoil(tensor: torch.Tensor, bad: dict) -> None:
    for index, value in bad["at"].items():
        tensor[index] = float(value)


def count(tensor: torch.Tensor) -> int:
    return int((~torch.isfinite(tensor)).sum())


def count_wrong(tensor: torch.Tensor, report, n: int, rank: int, salt: int, bad: dict) -> int:
    """As the oracle's, for sums of float32."""
    wrong = 0
    kept = {}
    for index, value in bad["at"].items():
        (chunk,) = [c for c in report.chunks if c.start <= index < c.stop]
        if bad["rank"] not in chunk.contributors:
            continue
        want = torch.tensor(float(value))
        same = bool(tensor[index] == want) or bool(tensor[index].isnan() and want.isnan())
        wrong += not same
        # The oracle knows finite values only.
        kept[index] = float(tensor[index])
        period = oracle.expected(chunk.source, chunk.contributors, n, rank, salt, "sum")
        tensor[index] = float(period[index % oracle.PERIOD])
    wrong += oracle.count_wrong(tensor, report, n, rank, salt)
    for index, value in kept.items():
        tensor[index] = value
    return wrong
