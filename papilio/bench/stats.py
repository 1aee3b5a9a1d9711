"""Statistics of samples: nearest-rank percentiles, Mann-Whitney U, bootstrap intervals.

Times are microseconds, bandwidths GB/s with GB = 1e9 bytes. Only numpy is needed.
"""

import math

import numpy as np

# A percentile is printed only where enough samples lie beyond it.
_ENOUGH = {"p99": 100, "p999": 1000}
_EXACT_PRODUCT = 400  # n1 * n2 up to which the U test counts all arrangements

# busbw = algbw * factor(n): what a link carries per byte of the result (as in nccl-tests).
BUS_FACTORS = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
    "broadcast": lambda n: 1.0,
    "barrier": lambda n: None,
}


def nearest_rank(ordered, percent: float) -> float:
    """The smallest sample that at least ``percent`` % of the samples do not exceed."""
    if len(ordered) == 0:
        raise ValueError("no samples")
    # The product is rounded first: 0.95 * 20 is a little more than 19 in binary.
    position = math.ceil(round(percent * len(ordered) / 100, 9))
    return float(ordered[max(position, 1) - 1])


def combine(per_rank, how: str) -> np.ndarray:
    """One number per iteration out of ``per_rank[rank][iteration]``."""
    table = np.asarray(per_rank, dtype=float)
    return {
        "rank0": lambda: table[0],
        "avg": lambda: table.mean(axis=0),
        "min": lambda: table.min(axis=0),
        "max": lambda: table.max(axis=0),
    }[how]()


_KEYS = ("avg", "min", "p25", "p50", "p75", "p90", "p95", "p99", "p999", "max", "cv_percent")
_KEYS += tuple(band + at for band in ("algbw", "busbw") for at in ("", "_p25", "_p50", "_p75"))


def summarise(samples_us, size: int, collective: str, ranks: int) -> dict:
    """avg, percentiles, cv and bandwidths of one row; None where not defined."""
    ordered = np.sort(np.asarray(samples_us, dtype=float))
    if len(ordered) == 0:  # every call failed
        return {"samples": 0} | dict.fromkeys(_KEYS)
    out = {"samples": len(ordered), "avg": float(ordered.mean()), "min": float(ordered[0])}
    for key, percent in (("p25", 25), ("p50", 50), ("p75", 75), ("p90", 90), ("p95", 95)):
        out[key] = nearest_rank(ordered, percent)
    for key, percent in (("p99", 99), ("p999", 99.9)):
        out[key] = nearest_rank(ordered, percent) if len(ordered) >= _ENOUGH[key] else None
    out["max"] = float(ordered[-1])
    out["cv_percent"] = (
        float(100 * ordered.std(ddof=1) / ordered.mean())
        if len(ordered) > 1 and ordered.mean() > 0
        else None
    )
    factor = BUS_FACTORS[collective](ranks)
    for suffix, time in (("", "avg"), ("_p25", "p75"), ("_p50", "p50"), ("_p75", "p25")):
        defined = size > 0 and factor is not None and out[time] > 0
        out["algbw" + suffix] = size / out[time] / 1e3 if defined else None
        out["busbw" + suffix] = out["algbw" + suffix] * factor if defined else None
    return out


def _arrangements(n1: int, n2: int) -> np.ndarray:
    """How many of the C(n1+n2, n1) orders give U = 0, 1, ..., n1*n2 (no ties)."""
    counts = np.zeros(n1 * n2 + 1)
    counts[0] = 1
    # Gaussian binomial: product over i of (1 - q^(n2+i)) / (1 - q^i), truncated at n1*n2.
    for i in range(1, n1 + 1):
        top, bottom = n2 + i, i
        for u in range(len(counts) - 1, top - 1, -1):
            counts[u] -= counts[u - top]
        for u in range(bottom, len(counts)):
            counts[u] += counts[u - bottom]
    return counts


def _ranks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mid-ranks (1-based) and the size of every group of equal values."""
    _, inverse, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    return (last - (sizes - 1) / 2)[inverse], sizes


def mann_whitney(a, b) -> tuple[float, float]:
    """U of ``a`` and the two-sided p value: exact for few samples without ties, else the normal
    approximation with correction for ties and continuity."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    n1, n2 = len(a), len(b)
    if n1 == 0 or n2 == 0:
        raise ValueError("no samples")
    ranks, ties = _ranks(np.concatenate([a, b]))
    u = float(ranks[:n1].sum() - n1 * (n1 + 1) / 2)
    far = max(u, n1 * n2 - u)
    if n1 * n2 <= _EXACT_PRODUCT and len(ties) == n1 + n2:
        counts = _arrangements(n1, n2)
        return u, min(1.0, 2 * float(counts[round(far) :].sum() / counts.sum()))
    n = n1 + n2
    variance = n1 * n2 / 12 * ((n + 1) - float((ties**3 - ties).sum()) / (n * (n - 1)))
    if variance <= 0:
        return u, 1.0
    z = (far - n1 * n2 / 2 - 0.5) / math.sqrt(variance)
    return u, min(1.0, math.erfc(max(z, 0.0) / math.sqrt(2)))


def ratio_of_medians(a, b, seed: int, draws: int = 2000) -> tuple[float, float, float]:
    """median(a) / median(b) and its 95 % bootstrap interval."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    random = np.random.default_rng(seed)

    def medians(values):
        # In slices: 2000 draws of 10 000 samples would be 160 MB at once.
        step = max(1, 1_000_000 // len(values))
        parts = [
            np.median(random.choice(values, (min(step, draws - done), len(values))), axis=1)
            for done in range(0, draws, step)
        ]
        return np.concatenate(parts)

    low, high = np.percentile(medians(a) / medians(b), (2.5, 97.5))
    return float(np.median(a) / np.median(b)), float(low), float(high)


def compare(first: dict, other: dict, seed: int) -> dict:
    """How ``first`` does against ``other`` (both rows of results with ``combined_us``)."""
    ratio, low, high = ratio_of_medians(first["combined_us"], other["combined_us"], seed)
    u, p = mann_whitney(first["combined_us"], other["combined_us"])
    return {
        "size": first["size"],
        "cycle": first["cycle"],
        "backend": first["backend"],
        "other": other["backend"],
        "p50": nearest_rank(np.sort(first["combined_us"]), 50),
        "other_p50": nearest_rank(np.sort(other["combined_us"]), 50),
        "ratio": ratio,
        "ratio_low": low,
        "ratio_high": high,
        "u": u,
        "p_value": p,
    }
