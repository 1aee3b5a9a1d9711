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


def values(rank: int, salt: int, start: int, stop: int) -> np.ndarray:
    """Input of a rank: small integers, different for every rank and index."""
    index = np.arange(start, stop, dtype=np.uint32)
    mixed = (index + np.uint32(rank * 13 + salt * 31)) ^ (
        (index >> np.uint32(8)) * np.uint32(rank + 1)
    )
    return ((mixed & np.uint32(63)) + np.uint32(1)).astype(np.float32)


def tensor(rank: int, salt: int, numel: int, dtype: str = "float32") -> torch.Tensor:
    return torch.from_numpy(values(rank, salt, 0, numel)).to(DTYPES[dtype])


def expected(chunk, n: int, rank: int, salt: int, op: str, weights=None) -> np.ndarray:
    """The float64 value of one chunk of a report before rounding to the tensor's dtype."""
    start, stop, source, contributors = chunk[0], chunk[1], chunk[2], chunk[3]
    if source == "local":
        assert list(contributors) == [rank], chunk
    total = np.zeros(stop - start)  # float64
    weight = 0.0
    for member in contributors:
        w = 1.0 if weights is None else weights[member]
        total += w * values(member, salt, start, stop)
        weight += w
    if op == "avg":
        return total / weight
    return n * total / weight


def count_wrong(result, report, n, rank, salt, op="sum", dtype="float32", weights=None) -> int:
    """How many elements differ from the report's explanation; also checks the partition."""
    wrong = 0
    next_start = 0
    for chunk in report.chunks:
        assert chunk.start == next_start and chunk.stop > chunk.start, report.chunks
        next_start = chunk.stop
        want = torch.from_numpy(expected(chunk, n, rank, salt, op, weights)).to(DTYPES[dtype])
        wrong += int((result[chunk.start : chunk.stop] != want).sum())
    assert next_start == result.numel(), (next_start, result.numel())
    return wrong
