"""Inputs whose collective results are known exactly, whatever the order of summation.

Element i of rank r is ``2**(r % width) * s(i)``: a small integer s(i) that changes from element to
element (a chunk in the wrong place is noticed) times a power of two of the rank's own, so that the
set of contributors can be read off a sum. Everything stays inside the significant bits of the type.
With more ranks than bits, rank r speaks only in every ``spread``-th element.
"""

import numpy as np

# Significant bits: integers up to 2**bits are exact.
BITS = {
    "float": 24,
    "double": 53,
    "half": 11,
    "bfloat16": 8,
    "int8": 7,
    "uint8": 8,
    "int32": 31,
    "int64": 53,
}
SHIFTS = 251  # inputs of successive iterations are shifted, so that stale results are wrong results
_BLOCK = 1 << 20


def _mix(index: np.ndarray) -> np.ndarray:
    """A hash of the element's number, 16 bits."""
    return ((index * np.uint32(2654435761)) ^ (index >> np.uint32(9))) >> np.uint32(16)


class Pattern:
    """Values of ``ranks`` ranks in a type of ``bits`` significant bits for the reduction ``op``."""

    def __init__(self, ranks: int, bits: int, op: str = "sum"):
        self.ranks = ranks
        self.op = op
        self.factors = bits - 1  # ranks that contribute to a product: 2**factors is representable
        room = bits - 1
        if op == "avg":  # s is a multiple of n, so that the mean is an integer too
            room -= max(ranks - 1, 1).bit_length()
        self.width = max(1, min(ranks, room - 1))
        self.spread = -(-ranks // self.width)
        self.choices = min(63, (1 << max(room - self.width, 0)) - 1) or 1
        self.step = ranks if op == "avg" else 1

    def scale(self, index: np.ndarray) -> np.ndarray:
        """s(i)."""
        return (_mix(index) % np.uint32(self.choices) + np.uint32(1)).astype(float) * self.step

    def contribution(self, rank: int, index: np.ndarray) -> np.ndarray:
        if self.op == "prod":
            two = (_mix(index) >> np.uint32(rank % 16)) & np.uint32(1)
            return 1.0 + two * float(rank < self.factors)
        value = self.scale(index) * (1 << (rank % self.width))
        if self.spread > 1 and self.op in ("sum", "avg"):
            value[index % np.uint32(self.spread) != rank // self.width] = 0
        return value

    def reduced(self, index: np.ndarray, members=None) -> np.ndarray:
        """The result over ``members`` (default: all), SUM and AVG not rescaled."""
        members = range(self.ranks) if members is None else members
        fold = {"sum": np.add, "avg": np.add, "max": np.maximum, "min": np.minimum}
        fold = fold.get(self.op, np.multiply)
        total = None
        for rank in members:
            value = self.contribution(rank, index)
            total = value if total is None else fold(total, value)
        return total / len(members) if self.op == "avg" else total

    def recover(self, value: float, index: int, rescaled: bool) -> str:
        """Contributors of one element of a sum as a bit string, rank 0 first; "?" if none fits.

        ``rescaled``: a partial sum is n times the mean of the contributors (Papilio's rule).
        """
        if self.op not in ("sum", "avg") or self.spread > 1 or self.ranks > 16:
            return "?"
        masks = np.arange(1, 1 << self.ranks)
        members = np.array([bin(mask).count("1") for mask in masks])
        divisor = self.ranks if self.op == "avg" else 1
        factor = self.ranks / members if rescaled or self.op == "avg" else 1.0
        sums = masks * factor * self.scale(np.array([index], dtype=np.uint32))[0] / divisor
        hits = masks[np.isclose(sums, value, rtol=1e-6)]
        return format(int(hits[0]), f"0{self.ranks}b")[::-1] if len(hits) == 1 else "?"


def fill(out: np.ndarray, values, start: int = 0) -> np.ndarray:
    """``out[k] = values(start + k)`` block by block; casts to the type of ``out``."""
    for begin in range(0, len(out), _BLOCK):
        end = min(begin + _BLOCK, len(out))
        out[begin:end] = values(np.arange(start + begin, start + end, dtype=np.uint32))
    return out
