"""The runs behind docs/benchmarks.md, in its order."""

from typing import NamedTuple


class Run(NamedTuple):
    name: str  # of its folder below build/benchmarks
    title: str  # of its section
    arguments: str  # of papilio.bench
    plot: str | None = None  # which of the run's plots goes into the page


_BESIDE_GLOO = "--interleave papilio,gloo "
_SMALL = _BESIDE_GLOO + "--mode streaming --block 50 -n 400 -b 64 -e 64K -f 4"
_LARGE = _BESIDE_GLOO + "-b 256K -e 64M -f 4"
_FAULTY = _BESIDE_GLOO + "-b 1M -e 1M "
_OTHERS = _BESIDE_GLOO + "-b 64 -e 4M -f 16 --collective "

RUNS = [
    Run("sizes", "All-reduce, each call from a common start", _BESIDE_GLOO + "-f 4", "ratio"),
    Run("small", "Small all-reduces back to back, 4 ranks", _SMALL, "latency"),
    Run("small-2", "Small all-reduces back to back, 2 ranks", _SMALL + " --ranks 2"),
    Run("small-8", "Small all-reduces back to back, 8 ranks", _SMALL + " --ranks 8"),
    Run("large-2", "Large all-reduces, 2 ranks", _LARGE + " --ranks 2"),
    Run("large-8", "Large all-reduces, 8 ranks", _LARGE + " --ranks 8"),
    Run("ucx", "Over UCX and TCP instead of shared memory", _LARGE + " --transport ucx"),
    Run("broadcast", "Broadcast", _OTHERS + "broadcast"),
    Run("all-gather", "All-gather", _OTHERS + "all_gather"),
    Run("reduce-scatter", "Reduce-scatter", _OTHERS + "reduce_scatter"),
    Run("all-to-all", "All-to-all", _OTHERS + "all_to_all"),
    Run("barrier", "Barrier", _BESIDE_GLOO + "--collective barrier"),
    Run("killed", "A rank is killed", _FAULTY + "-n 400 --fault crash@3:150", "timeline"),
    Run(
        "frozen",
        "A rank is stopped for a second",
        _FAULTY + "-n 400 --deadline 0.2 --fault freeze@3:150:1s",
        "timeline",
    ),
    Run(
        "straggler",
        "A rank computes longer, 100 ms in the mean",
        _FAULTY + "-n 150 --deadline 0.1 --straggler rank=3:delay=100ms:dist=exp",
        "tail",
    ),
]
