"""The flags of the benchmark: the letters of nccl-tests, plus what comparing backends needs."""

import argparse

from papilio.bench import patterns
from papilio.bench.injection import Fault, Straggler

# Letters of nccl-tests that mean something there and nothing here (yet).
_FOREIGN = {
    "t": "threads per process: ranks are processes here, see --ranks",
    "g": "GPUs per thread: this version measures CPU tensors",
    "m": "aggregated operations",
    "p": "parallel init: the groups are always made in parallel",
    "z": "blocking collectives: every call is waited for",
    "y": "null stream: CPU tensors have no stream",
    "G": "CUDA graphs",
    "C": "CPU time",
    "R": "buffer registration",
    "S": "time stamps: samples are in the JSON file",
    "M": "memory report: it is always in the footer",
    "D": "device implementation",
    "V": "CTA policy",
    "x": "CTA policy",
}
MOST_CALLS = 10_000  # of -n auto
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

_EPILOG = """\
exit status: 0 ok; 1 wrong results; 2 usage, or a collective that a backend does not have;
3 hang, dead rank or failed collective; 4 slower than --gate allows; 5 a fault did not happen;
130 interrupted. With faults, 3 is for the first backend alone; failures of the others are shown.

One sample is one call, from the common start time to its end on the slowest rank (-a 3). In
--mode isolated the ranks meet before every call, outside the timed window; that hides what a
straggler carries over to the next call, so claims about training want --mode streaming.
With --fault or --straggler the calls stream (--mode streaming), one backend after the other in
fresh processes; one sample is a call on the slowest rank that nothing was planned for.
--mode streaming --block 50 is what latency benchmarks of other libraries measure: each call begins
when the one before has ended, with warm caches and nothing in between.
A barrier costs about a millisecond of wall time per call. -n auto: 2 s of calls per backend and
size, at least 31 and at most 10000. GB = 1e9 bytes; sizes are powers of two.

C++ parts alone (reduce kernels, CRC, header, layout, protocol machines): make bench-micro
"""


class UsageError(Exception):
    """Wrong arguments, or something a backend does not offer."""


def parse_size(text: str) -> int:
    number, unit = text.strip(), ""
    if number[-2:].upper() in ("KB", "MB", "GB"):
        number = number[:-1]
    if number[-1:].upper() in ("K", "M", "G"):
        number, unit = number[:-1], number[-1:].upper()
    try:
        value = float(number) * _UNITS[unit]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; try 4096, 64K, 16M, 1G") from None
    if not 0 <= value <= 1 << 36 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of bytes in 0 .. 64G")
    return int(value)


def _number(kind, low, high, what):
    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} in {low:g} .. {high:g}")
        return value

    return convert


def _count(low: int, high: int):
    return _number(int, low, high, "a whole number")


def _spec(parse):
    def convert(text: str):
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _context(text: str):
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(message)


class _Foreign(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        why = _FOREIGN[option_string.lstrip("-")]
        parser.error(f"{option_string} of nccl-tests is not supported ({why})")


def _add_subject(parser) -> None:
    add = parser.add_argument_group("what is measured").add_argument
    add("--ranks", "--nproc", type=_count(1, 64), default=4, metavar="N", help="ranks (4)")
    add("--backend", metavar="X", help="backend to measure (papilio); any registered name")
    add(
        "--interleave",
        metavar="A,B",
        help="measure several in the same run, order shuffled per call",
    )
    add(
        "--collective",
        default="all_reduce",
        metavar="OP",
        help="all_reduce, broadcast, all_gather, reduce_scatter, all_to_all, barrier",
    )
    add(
        "-b", "--minbytes", type=parse_size, default=1 << 10, metavar="SIZE", help="first size (1K)"
    )
    add(
        "-e",
        "--maxbytes",
        type=parse_size,
        default=64 << 20,
        metavar="SIZE",
        help="last size (64M)",
    )
    add(
        "-f",
        "--stepfactor",
        type=_number(float, 1.01, 1 << 20, "a factor"),
        metavar="F",
        help="next size = size * F (2)",
    )
    add("-i", "--stepbytes", type=parse_size, metavar="SIZE", help="next size = size + SIZE")
    add("-o", "--op", default="sum", metavar="OP", help="sum, prod, min, max, avg (sum)")
    add(
        "-d",
        "--datatype",
        default="float",
        metavar="TYPE",
        help=", ".join(patterns.BITS) + " (float)",
    )
    add("-r", "--root", type=_count(0, 63), default=0, metavar="R", help="root of a broadcast (0)")
    add(
        "-u",
        "--unalign",
        type=_count(0, 4096),
        default=0,
        metavar="N",
        help="buffers begin N elements off (0)",
    )
    add("--device", default="cpu", metavar="DEV", help="cpu, or cuda: rank r takes GPU r (cpu)")


def _add_method(parser) -> None:
    add = parser.add_argument_group("how it is measured").add_argument
    add("-n", "--iters", type=_count(1, 1_000_000), metavar="N", help="calls per size (auto)")
    add(
        "-w",
        "--warmup_iters",
        type=_count(1, 100_000),
        default=10,
        metavar="N",
        help="warm-up (10)",
    )
    add(
        "-K",
        "--skip",
        type=_count(0, 1_000_000),
        default=0,
        metavar="N",
        help="leave the first N calls out of the statistics (0)",
    )
    add(
        "-N",
        "--run_cycles",
        type=_count(1, 1000),
        default=1,
        metavar="N",
        help="repeat each size, one row per cycle (1)",
    )
    add(
        "-c",
        "--check",
        type=_count(0, 1_000_000),
        default=1,
        metavar="N",
        help="verify N of the timed calls per row, bit for bit (1; 0 = none)",
    )
    add(
        "-a",
        "--average",
        type=_count(0, 3),
        default=3,
        metavar="0..3",
        help="one number per call: 0 rank 0's, 1 mean, 2 min, 3 max over ranks (3)",
    )
    add(
        "-I",
        "--per_iteration",
        type=_count(0, 1),
        default=1,
        metavar="0|1",
        help="percentiles over calls; 0: only the mean (1)",
    )
    add(
        "-T",
        "--timeout",
        type=_number(float, 0.1, 86400, "seconds"),
        default=120.0,
        metavar="S",
        help="a size that takes longer is a hang (120)",
    )
    add("--mode", metavar="MODE", help="isolated or streaming (isolated; with faults streaming)")
    add(
        "--block",
        type=_count(1, 1000),
        metavar="N",
        help="the backends take turns of N calls, back to back, after one that is not counted; "
        "with --mode streaming (they take turns call by call)",
    )
    add(
        "--expect",
        default="full",
        metavar="full|degraded",
        help="degraded: a partial sum is right if the backend's report explains it (full)",
    )
    add(
        "--seed",
        type=_count(0, (1 << 32) - 1),
        metavar="N",
        help="of the shuffling (random, printed)",
    )
    add("--cpu-list", metavar="LIST", help="pin rank r to the r-th of these CPUs, e.g. 0,1")
    add(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="import in every rank first, e.g. to register a backend",
    )
    add(
        "--gate",
        type=_number(float, 0.01, 100, "a ratio"),
        metavar="R",
        help="exit 4 if p50 of the first backend > R * p50 of the second at the last size",
    )


def _add_faults(parser) -> None:
    add = parser.add_argument_group(
        "what goes wrong (each backend in processes of its own)"
    ).add_argument
    add(
        "--fault",
        dest="faults",
        action="append",
        default=[],
        type=_spec(Fault.parse),
        metavar="KIND@RANK:CALL[+T][:FOR]",
        help="crash, exit, freeze or hang, before that timed call or T after it was entered, for "
        "ever or FOR; e.g. freeze@3:50+2ms:1s; repeatable",
    )
    add(
        "--straggler",
        dest="stragglers",
        action="append",
        default=[],
        type=_spec(Straggler.parse),
        metavar="rank=R:delay=T[:p=P][:dist=D]",
        help="rank R computes T longer before each call, or before a share P of them; D is fixed, "
        "exp, lognormal or pareto (T is the mean); repeatable",
    )
    add(
        "--call-timeout",
        type=_number(float, 0.1, 86400, "seconds"),
        metavar="S",
        help="timeout of the group in runs with faults (a quarter of -T)",
    )


def _add_output(parser) -> None:
    add = parser.add_argument_group("what comes out").add_argument
    add("-J", "--json", metavar="FILE", help="results as JSON; - = stdout")
    add("--csv", metavar="FILE", help="one line per size, backend and cycle; - = stdout")
    add("--no-samples", action="store_true", help="leave the raw samples out of the JSON")
    add("--raw", action="store_true", help="print every sample below its row")
    add("--output-dir", metavar="DIR", help="bench.json, bench.csv and plots into DIR")
    add("-q", "--quiet", action="store_true", help="table and verdict only")
    add(
        "--context",
        action="append",
        default=[],
        type=_context,
        metavar="K=V",
        help="echoed into every output; repeatable",
    )


def _add_library(parser) -> None:
    add = parser.add_argument_group("options of papilio (default: the library's own)").add_argument
    add("--deadline", type=float, metavar="S", help="papilio's patience")
    add("--min-peers", type=int, metavar="N", help="papilio's min_peers")
    add("--transport", metavar="LANE", help="papilio's transport")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m papilio.bench",
        description="Collective benchmark for torch.distributed backends on this host.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for add_group in (_add_subject, _add_method, _add_faults, _add_output, _add_library):
        add_group(parser)
    for letter in _FOREIGN:
        parser.add_argument("-" + letter, nargs="?", action=_Foreign, help=argparse.SUPPRESS)
    return parser
