"""What an all-reduce must have produced, from its report and the inputs alone (api.md, section 3).

Independent of the code under test: numpy in float64 over integer-valued inputs.
"""

import numpy as np
import torch

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


# Inputs repeat after so many elements: a prime, so that no chunk that lands in a wrong place fits.
PERIOD = 65521


def values(rank: int, salt: int) -> np.ndarray:
    """One period of the input of a rank: small integers, different for every rank and index."""
    index = np.arange(PERIOD, dtype=np.uint32)
    mixed = (index + np.uint32(rank * 13 + salt * 31)) ^ (
        (index >> np.uint32(8)) * np.uint32(rank + 1)
    )
    return ((mixed & np.uint32(63)) + np.uint32(1)).astype(np.float32)


def repeated(period: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Elements ``[start, stop)`` of the endless repetition of ``period``."""
    first = start % PERIOD
    times = -(-(first + stop - start) // PERIOD)
    return period.repeat(times)[first : first + stop - start]


def tensor(rank: int, salt: int, numel: int, dtype: str = "float32") -> torch.Tensor:
    return repeated(torch.from_numpy(values(rank, salt)).to(DTYPES[dtype]), 0, numel).clone()


def expected(source, contributors, n: int, rank: int, salt: int, op: str, weights=None):
    """One period of what the contributors make, in float64, before rounding to the dtype."""
    if source == "local":
        assert list(contributors) == [rank], contributors
    total = np.zeros(PERIOD)  # float64
    weight = 0.0
    for member in contributors:
        w = 1.0 if weights is None else weights[member]
        total += w * values(member, salt)
        weight += w
    if op == "avg":
        return total / weight
    return n * total / weight


def count_wrong(result, report, n, rank, salt, op="sum", dtype="float32", weights=None) -> int:
    """How many elements differ from the report's explanation; also checks the partition."""
    wrong = 0
    next_start = 0
    known: dict = {}
    for chunk in report.chunks:
        assert chunk.start == next_start and chunk.stop > chunk.start, report.chunks
        next_start = chunk.stop
        key = (chunk.source == "local", chunk.contributors)
        if key not in known:
            period = expected(chunk.source, chunk.contributors, n, rank, salt, op, weights)
            known[key] = torch.from_numpy(period).to(DTYPES[dtype])
        want = repeated(known[key], chunk.start, chunk.stop)
        wrong += int((result[chunk.start : chunk.stop] != want).sum())
    assert next_start == result.numel(), (next_start, result.numel())
    return wrong
